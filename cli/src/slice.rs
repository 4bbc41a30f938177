//! Slices as Python writes them: `[0:4, :, -1]`.

use dcp::layout::Region;

/// One index of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Index {
    /// One element; the dim goes away.
    At(i64),
    /// A range; a missing end is the dim's.
    Range(Option<i64>, Option<i64>),
}

/// Splits `name[0:4, :]` into the name and the text between its last brackets.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    text.strip_suffix(']')?.rsplit_once('[')
}

/// Reads the text between the brackets.
///
/// Errors: a sentence about the part that is no index.
pub(crate) fn parse(text: &str) -> Result<Vec<Index>, String> {
    if text.trim().is_empty() {
        return Err("the brackets are empty; write [:] for everything".to_owned());
    }
    text.split(',').map(|part| index(part.trim())).collect()
}

fn index(part: &str) -> Result<Index, String> {
    let number = |text: &str| {
        let text = text.trim();
        let parsed = if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        parsed.map_err(|_| format!("`{part}` is no index; write an integer, `a:b` or `:`"))
    };
    match part.split(':').collect::<Vec<_>>()[..] {
        [only] => number(only)?.map(Index::At).ok_or_else(|| "an index between commas is missing".to_owned()),
        [from, until] => Ok(Index::Range(number(from)?, number(until)?)),
        _ => Err(format!("`{part}` has a step, which is not supported; write `a:b`")),
    }
}

/// The box that the indexes choose of a tensor of this shape, and which of its dims are kept. As in Python, negative
/// numbers count from the end, ranges are cut to the dim, and missing indexes take all.
///
/// Errors: a sentence about the index that does not fit the shape.
pub(crate) fn select(indexes: &[Index], shape: &[u64]) -> Result<(Region, Vec<bool>), String> {
    if indexes.len() > shape.len() {
        return Err(format!("{} indexes for {} dims of shape {shape:?}", indexes.len(), shape.len()));
    }
    let mut region = Region::whole(shape);
    let mut kept = vec![true; shape.len()];
    for (dim, (index, &length)) in indexes.iter().zip(shape).enumerate() {
        let from_end = |number: i64| match number < 0 {
            true => length.checked_sub(number.unsigned_abs()),
            false => Some(number as u64),
        };
        let (start, extent) = match *index {
            Index::At(number) => {
                kept[dim] = false;
                let at = from_end(number).filter(|&at| at < length);
                (at.ok_or_else(|| format!("index {number} is outside dim {dim} of length {length}"))?, 1)
            }
            Index::Range(from, until) => {
                let from = from.map_or(0, |number| from_end(number).unwrap_or(0).min(length));
                let until = until.map_or(length, |number| from_end(number).unwrap_or(0).min(length));
                (from, until.saturating_sub(from))
            }
        };
        (region.start[dim], region.extent[dim]) = (start, extent);
    }
    Ok((region, kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(text: &str, shape: &[u64]) -> Result<(Vec<u64>, Vec<u64>), String> {
        let (region, _) = select(&parse(text)?, shape)?;
        Ok((region.start, region.extent))
    }

    #[test]
    fn slices_choose_what_python_chooses() {
        assert_eq!(chosen("0:4, :", &[8, 3]), Ok((vec![0, 0], vec![4, 3])));
        assert_eq!(chosen("-2:,1", &[8, 3]), Ok((vec![6, 1], vec![2, 1])));
        assert_eq!(chosen("-100:100", &[8, 3]), Ok((vec![0, 0], vec![8, 3])));
        assert_eq!(chosen("5:2", &[8]), Ok((vec![5], vec![0])));
        assert_eq!(chosen("-1", &[8]), Ok((vec![7], vec![1])));
        assert_eq!(select(&[Index::At(0)], &[2, 2]).unwrap().1, [false, true]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        for text in ["", "a", "1,,2", "::2", "8", "-9", "0,0", "9223372036854775808", "1.5"] {
            assert!(chosen(text, &[8]).is_err(), "{text}");
        }
        assert!(chosen("-9223372036854775808:", &[8]).is_ok());
    }
}
