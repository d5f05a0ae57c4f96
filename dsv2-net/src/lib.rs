//! DS-v2 net.
