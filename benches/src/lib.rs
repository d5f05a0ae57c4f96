//! DS-v2 benches.
