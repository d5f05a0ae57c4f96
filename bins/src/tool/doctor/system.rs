//! What the system tells of processes, files and limits. Where it does not, nothing is said.

use std::fmt;
use std::path::Path;

use dsv2_net::Endpoint;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) id: u32,
    /// Its program's name; empty if the system keeps it to itself.
    pub(super) name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "process {}", self.id),
            name => write!(f, "{name} (process {})", self.id),
        }
    }
}

impl Holder {
    fn of(id: u32) -> Self {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        Self { id, name: name.trim().to_owned() }
    }
}

/// Who listens at a port of this machine.
pub(super) fn listener(endpoint: &Endpoint) -> Option<Holder> {
    let Endpoint::Tcp { host, port } = endpoint else { return None };
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if !here {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| std::fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<String> =
        tables.iter().flat_map(|table| listening(table, *port)).map(|inode| format!("socket:[{inode}]")).collect();
    owner_of(&sockets)
}

/// The inodes of the sockets that listen at a port, from the kernel's table: `sl local remote state … inode`.
fn listening(table: &str, port: u16) -> Vec<&str> {
    /// `TCP_LISTEN` of the kernel.
    const LISTEN: &str = "0A";
    let wanted = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let own =
        rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&wanted)) && row.get(3) == Some(&LISTEN));
    own.filter_map(|row| row.get(9).copied()).collect()
}

/// Which process has one of these sockets among its descriptors. Of other users' processes only root is told.
fn owner_of(sockets: &[String]) -> Option<Holder> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |id: &u32| {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{id}/fd")) else { return false };
        let mut targets = descriptors.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    };
    ids.find(has).map(Holder::of)
}

/// Who holds the lock of a data directory. The kernel's table is read, because trying the lock would keep a server that
/// starts at that moment from getting it.
#[cfg(unix)]
pub(super) fn lock_holder(dir: &Path) -> Option<Holder> {
    use std::os::unix::fs::MetadataExt;
    let path = dir.join("lock");
    let metadata = std::fs::metadata(&path).ok()?;
    let noted = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let table = std::fs::read_to_string("/proc/locks").ok()?;
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    holder_in(&table, device, metadata.ino(), noted).map(Holder::of)
}

/// Elsewhere nobody tells.
#[cfg(not(unix))]
pub(super) fn lock_holder(_dir: &Path) -> Option<Holder> {
    None
}

/// The holder of a lock on a file, from the kernel's table: `1: FLOCK ADVISORY WRITE process major:minor:inode 0 EOF`. Some
/// file systems have one device number for locks and another for files; then the holder must be the one that is noted.
#[cfg(unix)]
fn holder_in(table: &str, device: (u32, u32), inode: u64, noted: Option<u32>) -> Option<u32> {
    table.lines().find_map(|line| {
        let row: Vec<&str> = line.split_whitespace().collect();
        let id = row.get(4)?.parse::<u32>().ok()?;
        let mut place = row.get(5)?.split(':');
        let mut hex = || u32::from_str_radix(place.next()?, 16).ok();
        let (on, of) = ((hex()?, hex()?), place.next()?.parse::<u64>().ok()?);
        (row.get(1) == Some(&"FLOCK") && of == inode && (on == device || noted == Some(id))).then_some(id)
    })
}

/// How many descriptors this process may open: now, and at most. `None` for the latter: as many as it likes.
#[cfg(unix)]
pub(super) fn descriptors() -> Option<(u64, Option<u64>)> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    Some((limit.current.unwrap_or(u64::MAX), limit.maximum))
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub(super) fn descriptors() -> Option<(u64, Option<u64>)> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:15B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n   \
            1: 0100007F:15B3 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 5555), ["4711"]);
        assert!(listening(table, 5556).is_empty());
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF\n";
        assert_eq!(holder_in(locks, (0xfe, 0), 99, None), Some(42));
        assert_eq!(holder_in(locks, (0, 5), 99, None), None);
        assert_eq!(holder_in(locks, (0, 5), 99, Some(42)), Some(42));
        assert_eq!(holder_in(locks, (0xfe, 0), 98, Some(42)), None);
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let Ok(socket) = std::net::TcpListener::bind("127.0.0.1:0") else { return };
        let Ok(at) = socket.local_addr() else { return };
        let found = listener(&Endpoint::tcp("127.0.0.1", at.port()));
        if cfg!(target_os = "linux") {
            assert_eq!(found.map(|holder| holder.id), Some(std::process::id()));
        }
    }
}
