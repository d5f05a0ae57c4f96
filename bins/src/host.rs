//! The name of this machine, which a server takes where it is given none.

/// The host's name, from `HOSTNAME`, or from the system.
#[must_use]
pub fn name() -> Option<String> {
    let from_environment = std::env::var("HOSTNAME").ok();
    let from_system = || {
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname")).ok()
    };
    let from_program = || {
        let output = std::process::Command::new("hostname").output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let usable = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    from_environment
        .and_then(usable)
        .or_else(|| from_system().and_then(usable))
        .or_else(|| from_program().and_then(usable))
}
