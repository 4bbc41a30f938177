//! The file names of the format, and what they tell.

/// The file whose existence makes the checkpoint complete.
pub(super) const METADATA: &str = ".metadata";

/// What a save that did not finish may leave in place of [`METADATA`].
pub(super) const METADATA_UNFINISHED: &str = ".metadata.tmp";

/// How the name of a data file ends.
pub(super) const SUFFIX: &str = ".distcp";

/// The largest rank that a name is taken to speak of, so that a name alone cannot make a target of 2^32 writers.
const RANK_MAX: u32 = 1 << 24;

/// The data file of a rank.
pub(super) fn data_file(rank: u32) -> String {
    format!("__{rank}_0{SUFFIX}")
}

/// The rank in the name of a data file, `__RANK_NUMBER.distcp`.
pub(super) fn writer(name: &str) -> Option<u32> {
    let (rank, number) = name.strip_prefix("__")?.strip_suffix(SUFFIX)?.split_once('_')?;
    parse(number)?;
    parse(rank)
}

/// The rank in the name of a metadata file of one rank, `__RANK.metadata`.
pub(super) fn metadata_rank(name: &str) -> Option<u32> {
    parse(name.strip_prefix("__")?.strip_suffix(METADATA)?)
}

fn parse(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?.filter(|&rank| rank <= RANK_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_ranks() {
        assert_eq!(writer(&data_file(12)), Some(12));
        assert_eq!(writer("__3_17.distcp"), Some(3));
        for other in ["__3.distcp", "__a_0.distcp", "__+1_0.distcp", "__1_.distcp", "__4294967295_0.distcp"] {
            assert_eq!(writer(other), None, "{other}");
        }
        assert_eq!(metadata_rank("__7.metadata"), Some(7));
        assert_eq!(metadata_rank(".metadata"), None);
        assert_eq!(metadata_rank("__.metadata"), None);
    }
}
