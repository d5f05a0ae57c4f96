//! DS-v2 bins.
