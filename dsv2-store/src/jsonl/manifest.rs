//! What the log's own lines cannot tell: which holes in it are known.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record;
use crate::disk::Disk;
use crate::error::StoreError;
use crate::ranges::Ranges;

pub(crate) const PATH: &str = "manifest.json";

/// Durable notes about the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// All lines up to this log index were durable when this was written.
    pub(crate) durable: u64,
    /// Log indices that damage took. No line has them any more, and none ever will.
    #[serde(default)]
    pub(crate) lost: Ranges,
    /// Fields of other versions, kept as they are.
    #[serde(flatten)]
    pub(crate) extra: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, StoreError> {
        record::load(disk, PATH)
    }

    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<(), StoreError> {
        record::save(disk, PATH, self)
    }
}
