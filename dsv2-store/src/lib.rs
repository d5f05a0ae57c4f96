//! DS-v2 store.
