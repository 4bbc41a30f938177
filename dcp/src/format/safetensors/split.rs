//! Deals tensors out to files of bounded size. Pure.

/// Deals tensors of these sizes out to files of at most `bytes_max` bytes of data each, in order; a larger tensor gets
/// a file of its own. Returns the tensors of each file, by position; no file is empty.
///
/// Source: `split_state_dict_into_shards_factory` of huggingface_hub 2.4; the files come in the same order.
pub(super) fn split(byte_lens: &[u64], bytes_max: u64) -> Vec<Vec<usize>> {
    let mut files = Vec::new();
    let (mut current, mut filled) = (Vec::new(), 0u64);
    for (tensor, &byte_len) in byte_lens.iter().enumerate() {
        if byte_len > bytes_max {
            files.push(vec![tensor]);
            continue;
        }
        // Both terms are at most `bytes_max`, so the difference does not wrap.
        if byte_len > bytes_max - filled {
            files.push(std::mem::take(&mut current));
            filled = 0;
        }
        current.push(tensor);
        filled += byte_len;
    }
    if !current.is_empty() {
        files.push(current);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_are_those_of_huggingface_hub() {
        // The example of its documentation, and a tensor over the limit in the middle.
        assert_eq!(split(&[6, 6, 2, 6, 2, 2], 10), [vec![0], vec![1, 2], vec![3, 4, 5]]);
        assert_eq!(split(&[4, 11, 4, 3], 10), [vec![1], vec![0, 2], vec![3]]);
        assert_eq!(split(&[0, 0, 1], 0), [vec![2], vec![0, 1]]);
        assert!(split(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_tensor_is_in_one_file_and_files_keep_the_limit(
            byte_lens in prop::collection::vec(0u64..20, 0..30),
            bytes_max in 0u64..40,
        ) {
            let files = split(&byte_lens, bytes_max);
            let mut dealt: Vec<usize> = files.iter().flatten().copied().collect();
            dealt.sort_unstable();
            prop_assert_eq!(dealt, (0..byte_lens.len()).collect::<Vec<_>>());
            for file in files {
                let filled: u64 = file.iter().map(|&tensor| byte_lens[tensor]).sum();
                prop_assert!(file.len() == 1 || filled <= bytes_max);
                prop_assert!(!file.is_empty());
            }
        }
    }
}
