use super::super::Coordinator;
use super::super::conformance::{Job, all};
use super::protocol::{self, FRAME_BYTES_MAX, MAGIC, Operation, Reply, Request, VERSION, Verdict};
use super::*;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const LONG: Duration = Duration::from_secs(60);

fn serve() -> TcpStore {
    TcpStore::serve("127.0.0.1:0", "job").unwrap()
}

fn later() -> Instant {
    Instant::now() + LONG
}

#[test]
fn conforms() {
    all(16, &|ranks, timeout| {
        let server = Arc::new(serve());
        let rank = |rank| {
            let store = match rank {
                0 => server.clone(),
                _ => Arc::new(TcpStore::connect(&server.address(), "job", LONG).unwrap()),
            };
            Arc::new(Peers::new(store, rank, ranks, timeout).unwrap()) as _
        };
        let ranks = (0..ranks).map(rank).collect();
        Job { ranks, held: Box::new(move || server.key_count().unwrap()) }
    });
}

/// A port that is free, for now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn ranks_may_start_before_the_server() {
    let address = free_address();
    std::thread::scope(|scope| {
        for rank in [2, 1, 0] {
            let address = &address;
            scope.spawn(move || {
                let line = over_tcp(address, "job", rank, 3, LONG).unwrap();
                assert_eq!(line.share("hello", &[rank as u8]).unwrap(), [0]);
                line.meet("end").unwrap();
            });
            std::thread::sleep(Duration::from_millis(60));
        }
    });
}

/// Rank 0 goes as soon as all have met: the last word to the others is on its way, and arrives.
#[test]
fn the_servers_end_loses_no_reply() {
    for round in 0..20 {
        let server = serve();
        let address = server.address();
        let mut ranks = vec![Peers::new(Arc::new(server), 0, 4, LONG).unwrap()];
        ranks.extend((1..4).map(|rank| over_tcp(&address, "job", rank, 4, LONG).unwrap()));
        std::thread::scope(|scope| {
            for rank in ranks {
                scope.spawn(move || rank.meet("end").unwrap());
            }
        });
        if round == 0 {
            let again = TcpStore::serve(&address, "job");
            assert!(again.is_ok(), "the port is free again: {again:?}");
        }
    }
}

#[test]
fn nobody_there_is_an_error_after_the_timeout() {
    let address = free_address();
    let start = Instant::now();
    let refused = TcpStore::connect(&address, "job", Duration::from_millis(100)).unwrap_err();
    assert!(matches!(&refused, Error::Io { object, .. } if *object == address), "{refused:?}");
    assert!(start.elapsed() >= Duration::from_millis(100));
}

#[test]
fn a_taken_port_is_an_error() {
    let server = serve();
    let refused = TcpStore::serve(&server.address(), "job").unwrap_err();
    assert!(matches!(refused, Error::Io { action: "listening", .. }), "{refused:?}");
}

#[test]
fn names_of_jobs_have_a_length() {
    for job in ["", &"j".repeat(JOB_BYTES_MAX + 1)] {
        assert!(matches!(TcpStore::serve("127.0.0.1:0", job), Err(Error::Usage(_))));
        assert!(matches!(TcpStore::connect("127.0.0.1:1", job, LONG), Err(Error::Usage(_))));
    }
    let job = "j".repeat(JOB_BYTES_MAX);
    let server = TcpStore::serve("127.0.0.1:0", &job).unwrap();
    TcpStore::connect(&server.address(), &job, LONG).unwrap();
}

/// Says `words` to whoever connects, once.
fn foreign_server(words: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        connection.write_all(words).unwrap();
        // Until the client leaves: closing at once would drop what is on its way to it.
        let _ = connection.read_to_end(&mut Vec::new());
    });
    address
}

#[test]
fn a_server_of_another_kind_is_named() {
    let cases: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "`HTTP/1.1`; something else listens there"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "`SSH-2.0-`; something else listens there"),
        (b"TITANCKV\x07\x00\x00\x00\x01", "speaks version 7, this program 1"),
        (b"TITANCKV\x01\x00\x00\x00\x63", "verdict 99"),
    ];
    for (words, expected) in cases {
        let refused = TcpStore::connect(&foreign_server(words), "job", LONG).unwrap_err();
        assert!(matches!(refused, Error::NotAPeer { .. }), "{refused:?}");
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

#[test]
fn another_job_is_named() {
    let server = serve();
    let refused = TcpStore::connect(&server.address(), "other", LONG).unwrap_err();
    assert!(refused.to_string().contains("another job than `other`"), "{refused}");
}

#[test]
fn another_version_is_told_so() {
    let server = serve();
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.write_all(b"TITANCKV\x02\x00\x00\x00\x03job").unwrap();
    assert_eq!(protocol::read_answer(&connection).unwrap(), Ok((Verdict::OtherVersion, VERSION)));
}

/// A connection that has been welcomed.
fn welcomed(server: &TcpStore) -> TcpStream {
    let connection = TcpStream::connect(server.address()).unwrap();
    protocol::write_hello(&connection, "job").unwrap();
    assert_eq!(protocol::read_answer(&connection).unwrap(), Ok((Verdict::Welcome, VERSION)));
    connection
}

/// What a server says to a frame, if anything, before it closes or stays.
fn reply_to(server: &TcpStore, frame: &[u8]) -> Reply<Vec<u8>> {
    let connection = welcomed(server);
    protocol::write_frame(&connection, frame).unwrap();
    let byte_len = protocol::read_frame_len(&connection).unwrap().unwrap();
    Reply::decode(protocol::read_frame(&connection, byte_len).unwrap()).unwrap()
}

#[test]
fn requests_without_sense_are_refused() {
    let server = serve();
    let good = Request { operation: Operation::Set(b"v"), key: "key", wait_ms: 0 }.encode();
    let mut cases = vec![Vec::new(), vec![9; 20], [&good[..5], &[0xff, 0xff], &good[7..]].concat()];
    cases.extend((0..good.len()).map(|end| good[..end].to_vec()));
    cases.push([&[2], &good[1..]].concat());
    cases.push([&[3], &good[1..]].concat());
    cases.push([&good[..7], &[0xff, 0xfe, 0xfd], &good[10..]].concat());
    for frame in cases {
        let reply = reply_to(&server, &frame);
        assert!(matches!(reply, Reply::Refused(_)), "{frame:?}: {reply:?}");
    }
    assert_eq!(server.key_count(), Some(0));
    assert_eq!(reply_to(&server, &good), Reply::Done);
    assert_eq!(server.key_count(), Some(1));
}

/// Bytes that are no protocol, ends in the middle, lengths that lie: the others go on as before.
#[test]
fn hostile_connections_harm_nobody() {
    let server = serve();
    let client = TcpStore::connect(&server.address(), "job", LONG).unwrap();
    client.set("key", b"value", later()).unwrap();
    let huge = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
    let promised = (FRAME_BYTES_MAX as u32).to_le_bytes();
    let after_welcome: [&[u8]; 5] =
        [&huge, &u32::MAX.to_le_bytes(), &promised, &[5], b"GET / HTTP/1.1\r\n\r\n"];
    for words in after_welcome {
        let mut connection = welcomed(&server);
        connection.write_all(words).unwrap();
        // Closed without a word, perhaps with a reset for the bytes not read, and perhaps by now.
        let _ = connection.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = connection.read_to_end(&mut said);
        assert_eq!(said, b"", "{words:?}");
    }
    for words in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], MAGIC, b"", b"TITANCKV\x01\x00\x00\x00\xffjob"] {
        let mut connection = TcpStream::connect(server.address()).unwrap();
        connection.write_all(words).unwrap();
    }
    assert_eq!(client.wait("key", later()).unwrap().unwrap(), b"value");
}

#[test]
fn a_lost_connection_is_made_again() {
    let server = serve();
    let client = TcpStore::connect(&server.address(), "job", LONG).unwrap();
    client.set("key", b"value", later()).unwrap();
    let End::There(there) = &client.0 else { panic!("connected") };
    there.break_idle_connections();
    assert_eq!(client.wait("key", later()).unwrap().unwrap(), b"value");
    client.remove("key", later()).unwrap();
    assert_eq!(server.key_count(), Some(0));
}

#[test]
fn a_server_that_is_gone_is_an_error_that_names_it() {
    let server = serve();
    let address = server.address();
    let client = TcpStore::connect(&address, "job", LONG).unwrap();
    let waiting = std::thread::spawn(move || client.wait("never", later()));
    std::thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    drop(server);
    let lost = waiting.join().unwrap().unwrap_err();
    assert!(lost.to_string().starts_with(&format!("{address}: reaching the store of rank 0")), "{lost}");
    assert!(start.elapsed() < LONG / 2);
}

/// The ten seconds of a lost server are no reason to wait past one's own deadline.
#[test]
fn a_server_that_is_gone_is_not_looked_for_past_the_deadline() {
    let server = serve();
    let client = TcpStore::connect(&server.address(), "job", LONG).unwrap();
    client.set("key", b"value", later()).unwrap();
    drop(server);
    let start = Instant::now();
    let soon = || Instant::now() + Duration::from_millis(100);
    client.wait("never", soon()).unwrap_err();
    client.set("key", b"value", soon()).unwrap_err();
    client.remove("key", soon()).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[test]
fn a_reply_without_sense_is_an_error() {
    for frame in [&b"\x01\x00\x00\x00\x09"[..], b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x03"] {
        let words = [&b"TITANCKV\x01\x00\x00\x00\x00"[..], frame].concat();
        let address = foreign_server(words.leak());
        let client = TcpStore::connect(&address, "job", LONG).unwrap();
        let refused = client.wait("key", Instant::now()).unwrap_err();
        assert!(matches!(refused, Error::NotAPeer { .. }), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn requests_survive_the_wire(key in ".{0,40}", value in prop::collection::vec(any::<u8>(), 1..100), wait_ms: u32, pick in 0..3) {
        let operation = match pick { 0 => Operation::Set(&value), 1 => Operation::Wait, _ => Operation::Remove };
        let request = Request { operation, key: &key, wait_ms };
        let frame = request.encode();
        prop_assert_eq!(Request::decode(&frame), Ok(request));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(frame in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(request) = Request::decode(&frame) {
            prop_assert_eq!(request.encode(), frame.clone());
        }
        if let Ok(reply) = Reply::decode(frame.clone()) {
            prop_assert!(reply.encode().first() == frame.first());
        }
    }
}
