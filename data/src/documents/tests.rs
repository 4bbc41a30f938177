//! Every encoding reads alike, from anywhere, whatever the blocks; what is no document is named.

use super::*;
use ::parquet::basic::Compression;
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Storage};
use std::io::Write;

const TEXTS: &[&str] = &[
    "first",
    "",
    "with \"quotes\", \n and \u{fc}n\u{ef}\u{a2}ode \u{1f642}",
    "a longer one, longer than any block is",
    "x",
    "last",
];

fn open(name: &str, bytes: &[u8], block_bytes: usize, at: Position) -> Result<Reader> {
    let key = Key::new(name).unwrap();
    let memory = MemoryStore::new();
    memory.put(&key, bytes).unwrap();
    let store: Arc<dyn Storage> = Arc::new(memory);
    let object = OpenObject::open(&store, &key, bytes.len() as u64, block_bytes.is_multiple_of(2))?;
    Reader::open(object, Encoding::of_name(name).unwrap(), &Fetcher::new(block_bytes, true), at)
}

fn read_all(mut reader: Reader) -> Result<Vec<Document>> {
    std::iter::from_fn(|| reader.next().transpose()).collect()
}

fn lines(texts: &[&str]) -> Vec<u8> {
    let line = |(index, text): (usize, &&str)| {
        let blank = if index == 2 { " \n\n" } else { "" };
        format!("{blank}{}\r\n", serde_json::json!({"id": index, "text": text, "more": {"text": null}}))
    };
    let mut bytes = texts.iter().enumerate().map(line).collect::<String>().into_bytes();
    // The last line has no end.
    bytes.truncate(bytes.len() - 2);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 3).unwrap()
}

/// Row groups of three rows.
fn parquet(texts: &[Option<&str>], message: &str, compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(message).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(1);
    let mut bytes = Vec::new();
    let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties.build())).unwrap();
    for rows in texts.chunks(3) {
        let mut group = file.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let levels: Vec<_> = rows.iter().map(|text| i16::from(text.is_some())).collect();
            match column.untyped() {
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    let values: Vec<_> = rows.iter().flatten().map(|text| ByteArray::from(*text)).collect();
                    column.write_batch(&values, Some(&levels), None).unwrap();
                }
                ColumnWriter::Int64ColumnWriter(column) => {
                    column.write_batch(&vec![7; rows.len()], Some(&levels), None).unwrap();
                }
                _ => unreachable!("the schemas below have no other columns"),
            };
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    file.close().unwrap();
    bytes
}

const MESSAGE: &str = "message m { REQUIRED INT64 id; OPTIONAL BYTE_ARRAY text (UTF8); }";

fn objects() -> Vec<(&'static str, Vec<u8>)> {
    let plain = lines(TEXTS);
    let (head, tail) = plain.split_at(plain.len() / 2);
    let some: Vec<_> = TEXTS.iter().copied().map(Some).collect();
    vec![
        ("a.json", plain.clone()),
        ("a.JSONL.gz", gzip(&plain)),
        ("members.json.gz", [gzip(head), gzip(tail)].concat()),
        ("a.ndjson.zst", zstd(&plain)),
        ("frames.json.zstd", [zstd(head), zstd(tail)].concat()),
        ("plain.parquet", parquet(&some, MESSAGE, Compression::UNCOMPRESSED)),
        ("snappy.parquet", parquet(&some, MESSAGE, Compression::SNAPPY)),
        ("zstd.parquet", parquet(&some, MESSAGE, Compression::ZSTD(Default::default()))),
        ("gzip.parquet", parquet(&some, MESSAGE, Compression::GZIP(Default::default()))),
        ("lz4.parquet", parquet(&some, MESSAGE, Compression::LZ4_RAW)),
        ("required.parquet", parquet(&some, &MESSAGE.replace("OPTIONAL", "REQUIRED"), Compression::SNAPPY)),
    ]
}

#[test]
fn every_encoding_reads_alike_from_anywhere() {
    for (name, bytes) in objects() {
        for block_bytes in [1, 7, 64, 1 << 20] {
            let all = read_all(open(name, &bytes, block_bytes, Position::default()).unwrap()).unwrap();
            let texts: Vec<_> = all.iter().map(|document| document.text.as_str()).collect();
            assert_eq!(texts, TEXTS, "{name} in blocks of {block_bytes}");
            for (index, document) in all.iter().enumerate() {
                let rest = read_all(open(name, &bytes, block_bytes, document.at).unwrap()).unwrap();
                let places = |documents: &[Document]| -> Vec<_> {
                    documents.iter().map(|document| (document.text.clone(), document.at)).collect()
                };
                assert_eq!(places(&rest), places(&all[index..]), "{name} from {index}");
            }
            for count in 0..=TEXTS.len() as u64 + 2 {
                let mut reader = open(name, &bytes, block_bytes, Position::default()).unwrap();
                assert_eq!(reader.skip(count).unwrap(), count.min(TEXTS.len() as u64), "{name}");
                let at = reader.position();
                let rest = read_all(reader).unwrap();
                assert_eq!(rest.len(), TEXTS.len().saturating_sub(count as usize), "{name} after {count}");
                let again = read_all(open(name, &bytes, block_bytes, at).unwrap()).unwrap();
                assert_eq!(again.len(), rest.len(), "{name} at {at:?}");
            }
        }
    }
}

#[test]
fn an_empty_object_has_no_documents() {
    for (name, bytes) in [
        ("a.json", Vec::new()),
        ("blank.json", b"\n \n".to_vec()),
        ("a.json.gz", gzip(b"")),
        ("a.json.zst", zstd(b"")),
        ("a.parquet", parquet(&[], MESSAGE, Compression::SNAPPY)),
    ] {
        let mut reader = open(name, &bytes, 16, Position::default()).unwrap();
        assert!(reader.next().unwrap().is_none(), "{name}");
        assert_eq!(reader.skip(3).unwrap(), 0, "{name}");
    }
}

fn error(name: &str, bytes: &[u8]) -> String {
    open(name, bytes, 64, Position::default())
        .and_then(read_all)
        .map(|found| found.len())
        .unwrap_err()
        .to_string()
}

#[test]
fn a_line_that_is_no_document_is_named() {
    for (line, says) in [
        ("not json", "begins with 'n', which is no JSON object; one JSON object per line"),
        (
            "[{\"text\": \"a\"}]",
            "begins with '[', which is no JSON object; one JSON object per line is expected; `jq",
        ),
        ("{\"text\": \"a\"", "is not valid JSON: EOF while parsing an object at column 12"),
        ("{\"text\": \"a\"} x", "is not valid JSON: trailing characters at column 15"),
        ("{\"body\": \"a\"}", "missing field `text` at column 13; every line needs a string `text`"),
        ("{\"text\": \"a\", \"text\": \"b\"}", "duplicate field `text`"),
        ("{\"text\": null}", "`text` is null; every line"),
        ("{\"text\": 7}", "`text` is a number"),
        ("{\"text\": true}", "`text` is a boolean"),
        ("{\"text\": [\"a\"]}", "`text` is an array"),
        ("{\"text\": {}}", "`text` is an object"),
        ("{\"text\": \"\\ud800\"}", "`text` is no valid string"),
    ] {
        let bytes = format!("{{\"text\": \"good\"}}\n\n{line}\n");
        let plain = error("d/a.json", bytes.as_bytes());
        assert!(plain.starts_with(&format!("memory://d/a.json: line 3: {says}")), "{plain}\n  lacks {says}");
        assert_eq!(error("d/a.json.gz", &gzip(bytes.as_bytes())), plain.replace("a.json:", "a.json.gz:"));
    }
    assert!(error("a.json", b"{\"text\": \"\xff\"}").contains("line 1: "));
}

#[test]
fn a_line_over_the_limit_is_named() {
    for (is_skipped, name) in [(false, "a.json"), (true, "a.json")] {
        let bytes = [b"{\"text\": \"a\"}\n".to_vec(), vec![b' '; 200]].concat();
        let Reader::Lines(mut reader) = open(name, &bytes, 8, Position::default()).unwrap() else {
            unreachable!()
        };
        reader.limit_lines(100);
        reader.next().unwrap();
        let result = if is_skipped { reader.skip(1).map(|_| ()) } else { reader.next().map(|_| ()) };
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("memory://a.json: line 2: is longer than 100 bytes; one JSON"), "{error}");
    }
}

#[test]
fn a_row_that_is_no_document_is_named() {
    let rows = [Some("a"), Some("b"), Some("c"), None];
    let null = error("a.parquet", &parquet(&rows, MESSAGE, Compression::SNAPPY));
    assert_eq!(null, "memory://a.parquet: row 4: `text` is null; every row needs a string in column `text`");
    let none =
        error("a.parquet", &parquet(&rows[..3], &MESSAGE.replace(" text ", " body "), Compression::SNAPPY));
    assert!(none.contains("schema: no column `text`, only id, body; rename the column"), "{none}");
    let numbers =
        error("a.parquet", &parquet(&rows[..3], "message m { OPTIONAL INT64 text; }", Compression::SNAPPY));
    assert!(numbers.contains("schema: column `text` holds no strings"), "{numbers}");
}

#[test]
fn what_is_cut_or_damaged_is_named() {
    let plain = lines(TEXTS);
    for (name, whole, format) in [("a.json.gz", gzip(&plain), "gzip"), ("a.json.zst", zstd(&plain), "zstd")] {
        let end = error(name, &whole[..whole.len() - 1]);
        assert!(end.starts_with(&format!("memory://{name}: the {format} stream ends after")), "{end}");
        assert!(end.ends_with("the object is truncated, so copy it again"), "{end}");
        for byte_len in 1..whole.len() {
            // Never a panic, never taken for whole.
            error(name, &whole[..byte_len]);
        }
        assert!(error(name, &plain).contains(&format!("not valid {format}, after 0 lines")), "{name}");
    }
    let (_, whole) = objects().remove(5);
    for byte_len in 0..whole.len() {
        let error = error("a.parquet", &whole[..byte_len]);
        assert!(error.starts_with("memory://a.parquet: not valid parquet, after 0 rows: "), "{error}");
    }
}

/// Every flip of a byte of the metadata or a page gives documents or an error, and never a panic.
#[test]
fn damage_in_parquet_is_no_panic() {
    for (name, whole) in
        objects().into_iter().filter(|(name, _)| matches!(*name, "plain.parquet" | "snappy.parquet"))
    {
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x55;
            if let Err(error) = open(name, &bytes, 64, Position::default()).and_then(read_all) {
                assert!(error.to_string().starts_with(&format!("memory://{name}: ")), "{error}");
            }
        }
    }
}

#[test]
fn a_place_that_an_object_does_not_have_is_an_error() {
    for (name, bytes) in objects() {
        let at = Position { record: 1000, byte_offset: bytes.len() as u64 + 1 };
        let error = match open(name, &bytes, 64, at) {
            Ok(_) => panic!("{name}"),
            Err(error) => error.to_string(),
        };
        assert!(error.starts_with("not a state of a data loader: it stands "), "{error}");
    }
}
