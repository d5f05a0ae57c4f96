//! From a failing schedule to a smaller one that fails too.

use super::config::SimConfig;

/// Makes a failing configuration smaller: fewer faults, clients, servers and writes, as long as `fails` says so. Asks it
/// at most `runs` times; yields the smallest that failed.
pub fn shrink(config: &SimConfig, runs: usize, mut fails: impl FnMut(&SimConfig) -> bool) -> SimConfig {
    let mut best = config.clone();
    let mut left = runs;
    loop {
        let before = best.clone();
        for name in ORDER {
            for value in candidates(name, value_of(&best, name)) {
                let mut smaller = best.clone();
                if left == 0 || smaller.set(name, value).is_err() || smaller == best {
                    continue;
                }
                left -= 1;
                if fails(&smaller) {
                    best = smaller;
                    break;
                }
            }
        }
        if best == before || left == 0 {
            return best;
        }
    }
}

/// Whole kinds of trouble first, then how much of the rest.
const ORDER: [&str; 25] = [
    "crash_every_ms",
    "partition_every_ms",
    "full_every_ms",
    "sync_failure_every_ms",
    "middle_crash_every_ms",
    "client_crash_every_ms",
    "link_break_ppm",
    "broker_break_ppm",
    "publication_loss_ppm",
    "retire_lost",
    "lost_servers",
    "upkeep_percent",
    "retention_ms",
    "retention_bytes",
    "server_wiped_percent",
    "reference_wiped_percent",
    "skew_ms",
    "learners",
    "servers",
    "followers",
    "writers",
    "brokers",
    "proxies",
    "writes",
    "faults_ms",
];

fn value_of(config: &SimConfig, name: &str) -> u64 {
    config.clone().fields().into_iter().find(|(field, _)| *field == name).map_or(0, |(_, value)| *value)
}

/// Smaller values to try, the smallest first.
fn candidates(name: &str, value: u64) -> Vec<u64> {
    match name {
        "servers" => [1, 3, 5].into_iter().filter(|&fewer| fewer < value).collect(),
        "followers" | "writers" | "learners" => (0..value).collect(),
        "brokers" | "proxies" => (1..value).collect(),
        "writes" | "faults_ms" => {
            [value / 4, value / 2, value * 3 / 4].into_iter().filter(|&less| less < value).collect()
        }
        _ => [0].into_iter().filter(|&none| none < value).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let mut config = SimConfig::swarm(3);
        config.faults.crash_every_ms = 900;
        config.servers = 5;
        let small = shrink(&config, 200, |config| config.faults.crash_every_ms > 0 && config.servers >= 3);
        assert_eq!((small.servers, small.faults.crash_every_ms, small.faults.partition_every_ms), (3, 900, 0));
        assert_eq!((small.writers, small.writes, small.brokers), (0, 0, 1));
    }
}
