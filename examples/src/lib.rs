//! DS-v2 examples.
