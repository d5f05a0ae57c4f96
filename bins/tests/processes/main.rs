//! The programs as people and scripts meet them: real processes, real sockets, real files. Everything is bounded in time.
#![cfg(unix)]

mod campaigns;
mod chat;
mod cluster;
mod command_line;
mod disks;
mod harness;
mod load;
mod mounts;
mod netns;
mod partitions;
mod parts;
mod seed;
mod tools;
mod verdict;
