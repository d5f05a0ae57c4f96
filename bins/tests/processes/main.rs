//! The programs as people and scripts meet them: real processes, real sockets, real files. Everything is bounded in time.
#![cfg(unix)]

mod bench;
mod campaigns;
mod chat;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod command_line;
mod containers;
mod disks;
mod doctor;
mod exposition;
#[cfg(target_os = "linux")]
mod failover;
mod full_disk;
mod harness;
#[cfg(target_os = "linux")]
mod leases;
mod load;
mod metrics;
mod mounts;
mod netns;
#[cfg(target_os = "linux")]
mod partitions;
mod parts;
mod prometheus;
mod seed;
mod shell;
#[cfg(target_os = "linux")]
mod slow_disk;
mod tools;
mod units;
mod upkeep;
mod verdict;
#[cfg(target_os = "linux")]
mod watch;
