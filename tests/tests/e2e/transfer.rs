//! Copies between stores that are interrupted and go on.

use dcp::storage::{Environment, open_url_with};
use e2e::interrupted::{copy, interrupted, local};

/// The store refuses everything from some request on, in the middle of parts that are under way.
#[test]
fn a_copy_to_s3_that_is_interrupted_sends_nothing_twice() {
    for seed in [1, 2] {
        let report = interrupted(100, seed, &|server, source, url, put_bytes| {
            let environment: Environment = server.environment().into_iter().collect();
            server.refuse_after(Some(put_bytes));
            Ok(copy(&local(source)?, &open_url_with(url, &environment)?).is_ok())
        })
        .unwrap();
        println!("{report:?}");
        assert!(report.tries > 2 && report.byte_len > 100 << 20);
        assert_eq!(report.sent_bytes, report.byte_len);
    }
}
