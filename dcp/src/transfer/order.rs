//! In which order objects are copied: what makes a checkpoint exist waits for everything else below its folder. No I/O.

use super::Item;
use crate::format::is_committed_by;
use crate::storage::Key;
use std::collections::{BTreeMap, BTreeSet};

/// Items by the outermost folder in which something commits a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Data, in the order to copy, with its group where it has one.
    pub(super) data: Vec<(Item, Option<usize>)>,
    /// What commits each group.
    pub(super) commits: Vec<Vec<Item>>,
    /// Data of each group.
    pub(super) waits_for: Vec<usize>,
}

pub(super) fn order(items: &[Item]) -> Order {
    let committing = |item: &&Item| is_committed_by(item.from.name());
    let folders: BTreeSet<Key> = items.iter().filter(committing).map(|item| item.from.parent()).collect();
    let mut groups = BTreeMap::new();
    let mut order = Order::default();
    for item in items {
        let group = outermost(&item.from, &folders).map(|folder| {
            *groups.entry(folder).or_insert_with(|| {
                order.commits.push(Vec::new());
                order.waits_for.push(0);
                order.commits.len() - 1
            })
        });
        match group {
            Some(group) if is_committed_by(item.from.name()) => order.commits[group].push(item.clone()),
            Some(group) => {
                order.waits_for[group] += 1;
                order.data.push((item.clone(), Some(group)));
            }
            None => order.data.push((item.clone(), None)),
        }
    }
    // Group by group, so that a transfer that is interrupted has made as many checkpoints whole as it could.
    order.data.sort_by_key(|(_, group)| *group);
    order
}

/// The outermost of these folders that a key is in, at any depth.
fn outermost(key: &Key, folders: &BTreeSet<Key>) -> Option<Key> {
    let mut found = None;
    let mut folder = key.clone();
    while !folder.is_root() {
        folder = folder.parent();
        found = folders.get(&folder).cloned().or(found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commits_waits_for_all_below_its_folder() {
        let names = [
            "log.txt",
            "step-1/.metadata",
            "step-1/__0_0.distcp",
            "step-2/a/r0.safetensors",
            "step-2/titan-0000.json",
            "step-3/model.safetensors",
            "step-3/model.safetensors.index.json",
            "step-3/sharded/__0.metadata",
            "step-3/sharded/x.distcp",
        ];
        let item = |name: &&str| {
            let key = Key::new(*name).unwrap();
            Item { from: key.clone(), to: key, byte_len: 1, present: false }
        };
        let order = order(&names.iter().map(item).collect::<Vec<_>>());
        let data: Vec<_> = order.data.iter().map(|(item, group)| (item.from.as_str(), *group)).collect();
        assert_eq!(
            data,
            [
                ("log.txt", None),
                ("step-1/__0_0.distcp", Some(0)),
                ("step-2/a/r0.safetensors", Some(1)),
                ("step-3/model.safetensors", Some(2)),
                ("step-3/sharded/x.distcp", Some(2)),
            ]
        );
        let commits: Vec<Vec<_>> =
            order.commits.iter().map(|group| group.iter().map(|item| item.from.as_str()).collect()).collect();
        assert_eq!(
            commits,
            [
                vec!["step-1/.metadata"],
                vec!["step-2/titan-0000.json"],
                vec!["step-3/model.safetensors.index.json", "step-3/sharded/__0.metadata"],
            ]
        );
        assert_eq!(order.waits_for, [1, 1, 2]);
    }
}
