use super::*;

#[test]
fn shows_what_a_checkpoint_is() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[&["inspect", LLAMA], &["inspect", BOXES], &["inspect", "--json", BOXES]]
    ));
}

#[test]
fn the_page_cannot_be_broken_by_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let header = br#"{"</script><script>alert(1)</script>":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.push(7);
    std::fs::write(folder.path().join("evil.safetensors"), bytes).unwrap();
    let (code, _) = run(folder.path(), &["inspect", "TMP/evil.safetensors", "--html", "TMP/page.html"]);
    assert_eq!(code, 0);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains(r"\u003c/script>\u003cscript>alert(1)\u003c/script>"));
    assert!(!page.contains("<script>alert"));
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("://"), "nothing is loaded");
}

#[test]
fn the_page_holds_every_box_with_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["inspect", BOXES, "--html", "TMP/page.html"]).0, 0);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    let data: serde_json::Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    let boxes: usize =
        data["tensors"].as_array().unwrap().iter().map(|t| t[6].as_array().unwrap().len()).sum();
    assert_eq!(boxes, 8);
    assert_eq!(data["writers"].as_array().unwrap().len(), 2);
    let by_writer: u64 = data["writers"].as_array().unwrap().iter().map(|w| w[1][0].as_u64().unwrap()).sum();
    assert_eq!(by_writer, data["bytes"].as_u64().unwrap());
}
