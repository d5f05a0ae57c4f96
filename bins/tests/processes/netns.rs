//! Hosts on a network of their own: a network namespace for each, joined by a bridge in one more. Nothing of it reaches the
//! machine's own network. Packets can be dropped between any two hosts, in one direction or both.
//!
//! This needs root, `ip` (iproute2) and `iptables`.

use std::process::Command;

/// A network. Its namespaces go with it.
pub(crate) struct Network {
    hosts: usize,
}

impl Network {
    /// A network of so many hosts.
    pub(crate) fn new(hosts: usize) -> Self {
        let net = Self { hosts };
        let bridge = Self::namespace(None);
        run("ip", &["netns", "add", &bridge]);
        run("ip", &["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        run("ip", &["-n", &bridge, "link", "set", "br0", "up"]);
        for host in 0..hosts {
            let (name, port) = (Self::namespace(Some(host)), format!("port{host}"));
            let address = format!("{}/24", Self::address(host));
            run("ip", &["netns", "add", &name]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &name];
            run("ip", &[&["-n", &bridge, "link", "add", &port], &peer[..]].concat());
            run("ip", &["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            run("ip", &["-n", &name, "address", "add", &address, "dev", "eth0"]);
            run("ip", &["-n", &name, "link", "set", "eth0", "up"]);
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        }
        net
    }

    /// The namespace of a host, or of the bridge; other tests, in processes of their own, have others.
    fn namespace(host: Option<usize>) -> String {
        let name = host.map_or_else(|| "bridge".to_owned(), |host| host.to_string());
        format!("dsv2-{}-{name}", std::process::id())
    }

    /// Where `ip` keeps the namespace of a host.
    #[cfg(target_os = "linux")]
    pub(crate) fn file(host: usize) -> std::path::PathBuf {
        std::path::Path::new("/run/netns").join(Self::namespace(Some(host)))
    }

    /// The address of a host.
    pub(crate) fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// The same command, on a host.
    pub(crate) fn on(&self, host: usize, command: &Command) -> Command {
        assert!(host < self.hosts, "there is no host {host}");
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &Self::namespace(Some(host))]).arg(command.get_program()).args(command.get_args());
        there.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                there.env(name, value);
            }
        }
        if let Some(dir) = command.get_current_dir() {
            there.current_dir(dir);
        }
        there
    }

    /// From now on nothing that one host sends reaches the other. The sender is not told.
    pub(crate) fn cut_one_way(&self, from: usize, to: usize) {
        let (namespace, source) = (Self::namespace(Some(to)), Self::address(from));
        run("ip", &["netns", "exec", &namespace, "iptables", "-w", "-A", "INPUT", "-s", &source, "-j", "DROP"]);
    }

    /// Cuts every host of one side off every one of the other.
    pub(crate) fn cut(&self, side: &[usize], other: &[usize]) {
        for (&a, &b) in side.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.cut_one_way(a, b);
            self.cut_one_way(b, a);
        }
    }

    /// Lets everything through again.
    pub(crate) fn join(&self) {
        for host in 0..self.hosts {
            run("ip", &["netns", "exec", &Self::namespace(Some(host)), "iptables", "-w", "-F", "INPUT"]);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in (0..self.hosts).map(Some).chain([None]) {
            // Whatever was not made cannot be deleted.
            let _deleted = Command::new("ip").args(["netns", "delete", &Self::namespace(host)]).output().is_ok();
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|why| panic!("{program}: {why}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}; this test needs root, iproute2 and iptables");
}
