//! Which of two servers is better.

use std::str::FromStr;

use dsv2_core::ServerName;

/// Which rank wins. All servers of a cluster need the same rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CoordinatorRank {
    /// The highest, as the algorithm is taught.
    #[default]
    Highest,
    /// The lowest.
    Lowest,
}

/// The text is neither `highest` nor `lowest`. Nothing was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither highest nor lowest")]
pub struct NoSuchRule;

impl FromStr for CoordinatorRank {
    type Err = NoSuchRule;
    fn from_str(text: &str) -> Result<Self, NoSuchRule> {
        match text {
            "highest" => Ok(Self::Highest),
            "lowest" => Ok(Self::Lowest),
            _ => Err(NoSuchRule),
        }
    }
}

impl CoordinatorRank {
    /// Whether the first of two servers is better than the second. Total and antisymmetric over different names: any
    /// rank is better than none, and equal ranks are decided by the names.
    #[must_use]
    pub fn prefers(self, a: (Option<u64>, &ServerName), b: (Option<u64>, &ServerName)) -> bool {
        let (greater, smaller) = match self {
            Self::Highest => (a, b),
            Self::Lowest => (b, a),
        };
        match (a.0, b.0) {
            (Some(_), None) => true,
            (None, Some(_)) => false,
            _ => greater > smaller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_decide_then_names_and_any_rank_beats_none() {
        let (a, b): (ServerName, ServerName) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
        for rule in [CoordinatorRank::Highest, CoordinatorRank::Lowest] {
            let high = rule == CoordinatorRank::Highest;
            assert_eq!(rule.prefers((Some(2), &a), (Some(1), &b)), high);
            assert_eq!(rule.prefers((Some(1), &a), (Some(2), &b)), !high);
            assert_eq!(rule.prefers((Some(1), &b), (Some(1), &a)), high);
            assert_eq!(rule.prefers((None, &b), (None, &a)), high);
            assert!(rule.prefers((Some(0), &a), (None, &b)) && !rule.prefers((None, &b), (Some(0), &a)));
            assert!(!rule.prefers((Some(1), &a), (Some(1), &a)));
        }
        assert_eq!("lowest".parse(), Ok(CoordinatorRank::Lowest));
        assert_eq!("Lowest".parse::<CoordinatorRank>(), Err(NoSuchRule));
    }
}
