use super::*;

const TIED: &str = "models/llama3_tied/hf";
const FP8: &str = "models/deepseek_v3_fp8/hf";
const NATIVE: &str = "models/qwen3_moe/native.safetensors";

#[test]
fn goes_in_and_out() {
    let folder = tempfile::tempdir().unwrap();
    let assets = folder.path().join("assets");
    std::fs::create_dir(&assets).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(TIED).join("config.json");
    std::fs::copy(config, assets.join("config.json")).unwrap();
    std::fs::write(assets.join("tokenizer.json"), b"{}").unwrap();
    std::fs::write(assets.join("README.md"), b"not copied").unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["from-hf", TIED, "TMP/run/step-0", "--dp-shard", "2", "--tp", "2"],
            &["to-hf", "TMP/run/step-0", "TMP/dry", "--config", "TMP/assets/config.json", "--dry-run"],
            &["to-hf", "TMP/run/step-0", "TMP/dry", "--config", "TMP/assets", "--dry-run"],
            &["to-hf", "TMP/run/step-0", "TMP/dry", "--config", "TMP/nothing", "--dry-run"],
            &["to-hf", "TMP/run/step-0", "TMP/out", "--hf-assets", "TMP/assets", "--shard-size", "200kB"],
            &["diff", TIED, "TMP/out"],
            &["to-hf", "--plan", "--config", "TMP/assets/config.json"],
            &["from-hf", FP8, "TMP/fp8", "--to", "titan"],
            &[
                "to-hf",
                NATIVE,
                "TMP/moe",
                "--config",
                "models/qwen3_moe/hf/config.json",
                "--dtype",
                "bf16",
                "--json"
            ],
        ]
    ));
    let mut names: Vec<_> = std::fs::read_dir(folder.path().join("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    let config = std::fs::read_to_string(folder.path().join("moe/config.json")).unwrap();
    assert!(config.contains("\"bfloat16\"") && !config.contains("\"float32\""), "{config}");
}

const MULTIMODAL: &str = "models/llama4_multimodal/hf";

#[test]
fn experts_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &[
                "from-hf",
                "models/qwen3_moe/hf",
                "TMP/ep",
                "--dp-shard",
                "2",
                "--tp",
                "2",
                "--ep",
                "2",
                "--etp",
                "2"
            ],
            &["diff", NATIVE, "TMP/ep"],
            &[
                "reshard",
                "TMP/ep",
                "TMP/more",
                "--model",
                "qwen3:debugmodel_moe",
                "--dp-shard",
                "4",
                "--ep",
                "4"
            ],
            &["diff", NATIVE, "TMP/more"],
            &[
                "seed",
                "TMP/seed",
                "--model",
                "deepseek_v3:debugmodel",
                "--dp-shard",
                "64",
                "--ep",
                "8",
                "--dry-run"
            ],
            &[
                "seed",
                "TMP/seed",
                "--model",
                "deepseek_v3:debugmodel",
                "--dp-shard",
                "4",
                "--ep",
                "8",
                "--dry-run"
            ],
            &[
                "seed",
                "TMP/seed",
                "--model",
                "deepseek_v3:debugmodel",
                "--dp-shard",
                "6",
                "--ep",
                "6",
                "--dry-run"
            ],
            &[
                "seed",
                "TMP/seed",
                "--model",
                "deepseek_v3:debugmodel",
                "--tp",
                "4",
                "--ep",
                "2",
                "--etp",
                "2"
            ],
            &["seed", "TMP/seed", "--model", "deepseek_v3:debugmodel", "--tp", "2", "--etp", "2"],
            &["reshard", "TMP/ep", "TMP/none", "--dp-shard", "2", "--ep", "2"],
        ]
    ));
}

#[test]
fn the_rest_of_a_model_that_sees_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["from-hf", MULTIMODAL, "TMP/step-0"],
            &["to-hf", "TMP/step-0", "TMP/whole", "--hf-assets", MULTIMODAL],
            &["diff", MULTIMODAL, "TMP/whole"],
            &["to-hf", "TMP/step-0", "TMP/text", "--config", "models/llama4_multimodal/hf/config.json"],
            &["diff", "models/llama4/hf", "TMP/text"],
        ]
    ));
    let config = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(name).join("config.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(config("whole")["architectures"][0], "Llama4ForConditionalGeneration");
    assert_eq!(config("text")["architectures"][0], "Llama4ForCausalLM");
}

#[test]
fn files_of_meta_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let meta = folder.path().join("meta");
    std::fs::create_dir(&meta).unwrap();
    let params = r#"{"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 128, "multiple_of": 48,
        "ffn_dim_multiplier": 0.5, "norm_eps": 1e-05, "rope_theta": 500000.0}"#;
    std::fs::write(meta.join("params.json"), params).unwrap();
    let native = "models/llama3/native.safetensors";
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["convert", native, "TMP/meta/consolidated.00.pth"],
            &["from-hf", "TMP/meta", "TMP/step-0"],
            &["diff", native, "TMP/step-0"],
            &["convert", native, "TMP/meta/consolidated.01.pth"],
            &["from-hf", "TMP/meta", "TMP/none"],
        ]
    ));
}

#[test]
fn what_does_not_fit_is_told() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["to-hf", NATIVE, "TMP/out"],
            &["to-hf", NATIVE, "TMP/out", "--config", "models/llama3/hf/config.json"],
            &["to-hf", NATIVE, "TMP/out.safetensors", "--model", "qwen3:0.6B"],
            &["from-hf", "TMP", "TMP/out"],
            &["seed", "TMP/out", "--model", "llama3:9B"],
            &["seed", "TMP/out", "--model", "llama3:debugmodel", "--ep", "2"],
            &["seed", "TMP/out", "--model", "llama3:debugmodel", "--dialect", "torchtitan-1"],
        ]
    ));
}

#[test]
fn makes_seeds() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &[
                "seed",
                "TMP/step-0",
                "--model",
                "llama3:debugmodel",
                "--seed",
                "7",
                "--pp",
                "2",
                "--dp-shard",
                "2"
            ],
            &["cat", "TMP/step-0", "layers.3.attention.wq.weight[0:2, 0:3]"],
            &[
                "seed",
                "TMP/whole.safetensors",
                "--to",
                "safetensors",
                "--model",
                "llama3:debugmodel",
                "--seed",
                "7"
            ],
            &["diff", "TMP/step-0", "TMP/whole.safetensors"],
        ]
    ));
}
