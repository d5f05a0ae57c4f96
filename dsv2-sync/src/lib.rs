//! DS-v2 sync.
