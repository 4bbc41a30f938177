//! The text of placements: `R`, `R3`, `S0`, `SS0/4`, `@2`.
//!
//! | text | meaning |
//! |---|---|
//! | `R`, `R3` | every coordinate holds the same; coordinate 0, or 3, writes it |
//! | `S0` | cuts dim 0 in consecutive pieces |
//! | `SS0/4` | cuts dim 0 inside the 4 pieces that axes further right have cut already |
//! | `@2` | only coordinate 2 holds it |

use crate::layout::Placement;

/// One mesh axis of a class: how it places tensors, and which copy is written where it replicates them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct AxisRule {
    /// The placement.
    pub(crate) placement: Placement,
    /// The coordinate that writes, on a replica axis; 0 on others.
    pub(crate) owner: u32,
}

impl AxisRule {
    /// A rule; the owner counts on replica axes only.
    pub(crate) fn new(placement: Placement, owner: u32) -> Self {
        let owner = if placement == Placement::Replicate { owner } else { 0 };
        AxisRule { placement, owner }
    }

    /// The one coordinate that writes, where the axis does not cut the tensor.
    pub(crate) fn fixed(self) -> Option<u32> {
        match self.placement {
            Placement::Replicate => Some(self.owner),
            Placement::Only { coordinate } => Some(coordinate),
            Placement::Shard { .. } | Placement::StridedShard { .. } => None,
        }
    }

    /// The text form.
    pub(crate) fn text(self) -> String {
        match self.placement {
            Placement::Replicate if self.owner == 0 => "R".to_owned(),
            Placement::Replicate => format!("R{}", self.owner),
            Placement::Shard { dim } => format!("S{dim}"),
            Placement::StridedShard { dim, split_factor } => format!("SS{dim}/{split_factor}"),
            Placement::Only { coordinate } => format!("@{coordinate}"),
        }
    }

    /// Reads the text form; `None` for anything else.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let rule = if text == "R" {
            AxisRule::new(Placement::Replicate, 0)
        } else if let Some(owner) = text.strip_prefix('R') {
            AxisRule::new(Placement::Replicate, number(owner)?)
        } else if let Some(strided) = text.strip_prefix("SS") {
            let (dim, split_factor) = strided.split_once('/')?;
            let (dim, split_factor) = (number(dim)?, number(split_factor)?);
            AxisRule::new(Placement::StridedShard { dim, split_factor }, 0)
        } else if let Some(dim) = text.strip_prefix('S') {
            AxisRule::new(Placement::Shard { dim: number(dim)? }, 0)
        } else {
            let coordinate = number(text.strip_prefix('@')?)?;
            AxisRule::new(Placement::Only { coordinate }, 0)
        };
        Some(rule)
    }
}

/// Decimal digits only: `str::parse` would admit a sign.
fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_rule_are_each_others_inverse() {
        for text in ["R", "R3", "S0", "S12", "SS0/4", "SS2/1", "@0", "@7"] {
            assert_eq!(AxisRule::from_text(text).unwrap().text(), text);
        }
        for bad in ["", "r", "R-1", "R+1", "S", "S-0", "SS0", "SS/4", "SS0/", "@", "@ 1", "S4294967296", "P"]
        {
            assert_eq!(AxisRule::from_text(bad), None, "{bad:?}");
        }
    }
}
