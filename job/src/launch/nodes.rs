//! Slurm's lists of nodes: `node[01-04,07],login1`.

/// The first node of a list; `None` for a text that is none.
pub(super) fn first(list: &str) -> Option<String> {
    let end = end_of_first(list)?;
    let (mut name, mut rest) = (String::new(), &list[..end]);
    while let Some((before, ranges)) = rest.split_once('[') {
        let (ranges, after) = ranges.split_once(']')?;
        let first = ranges.split([',', '-']).next().filter(|first| !first.is_empty())?;
        name.push_str(before);
        name.push_str(first);
        rest = after;
    }
    name.push_str(rest);
    (!name.is_empty() && !name.contains(']')).then_some(name)
}

/// Where the first name ends: at the first comma that is in no brackets.
fn end_of_first(list: &str) -> Option<usize> {
    let mut depth = 0u32;
    for (at, char) in list.char_indices() {
        match char {
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    (depth == 0).then_some(list.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_of_a_list() {
        for (list, node) in [
            ("n1", Some("n1")),
            ("n1,n2", Some("n1")),
            ("node[01-04,07]", Some("node01")),
            ("node[3,5-9],other", Some("node3")),
            ("rack[2-3]-node[010-020].cluster", Some("rack2-node010.cluster")),
            ("", None),
            ("node[", None),
            ("node]1", None),
            ("node[]", None),
        ] {
            assert_eq!(first(list).as_deref(), node, "{list}");
        }
    }
}
