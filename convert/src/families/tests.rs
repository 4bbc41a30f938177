//! Every family and flavor: sizes as published, and every element of both sides linked once.

use super::*;
use crate::link::Link;
use crate::spec::Direction;
use std::collections::{BTreeMap, BTreeSet};

/// Parameters of each flavor, buffers left out, as TorchTitan v0.2.2 counts them; tied heads are parameters of their own.
#[test]
fn sizes_are_those_of_torchtitan() {
    for (name, expected) in [
        ("llama3:debugmodel", 6_163_712u64),
        ("llama3:8B", 8_030_261_248),
        ("llama3:70B", 70_553_706_496),
        ("llama3:405B", 405_853_388_800),
        ("llama4:debugmodel", 15_017_216),
        ("llama4:17bx16e", 107_769_861_120),
        ("llama4:17bx128e", 400_711_848_960),
        ("deepseek_v3:debugmodel", 33_014_016),
        ("deepseek_v3:16B", 15_706_484_224),
        ("deepseek_v3:236B", 235_741_434_880),
        ("deepseek_v3:671B", 671_026_404_352),
        ("gpt_oss:debugmodel", 183_397_920),
        ("gpt_oss:20b", 20_914_757_184),
        ("gpt_oss:120b", 116_829_156_672),
        ("flux:flux-debug", 258_286_144),
        ("flux:flux-dev", 11_891_178_560),
        ("qwen3:debugmodel", 31_987_968),
        ("qwen3:0.6B", 596_049_920),
        ("qwen3:1.7B", 1_720_574_976),
        ("qwen3:4B", 4_022_468_096),
        ("qwen3:8B", 8_190_735_360),
        ("qwen3:14B", 14_768_307_200),
        ("qwen3:32B", 32_762_123_264),
        ("qwen3:debugmodel_moe", 315_758_848),
        ("qwen3:30B-A3B", 30_532_122_624),
        ("qwen3:235B-A22B", 235_093_634_560),
    ] {
        let model = by_name(name).unwrap();
        let is_counted = |fqn: &str| {
            let is_one = model.tied.as_ref().is_some_and(|tied| tied.head == fqn);
            !is_one && !fqn.ends_with("expert_bias")
        };
        let params = model.params.iter().filter(|param| is_counted(&param.fqn));
        let found: u64 = params.map(|param| param.shape.iter().product::<u64>()).sum();
        assert_eq!(found, expected, "{name}");
    }
}

/// Elements of a link's end, as boxes would be too coarse for a rotary one: sums per tensor, and bounds.
fn linked<'a>(links: impl Iterator<Item = (&'a Link, bool)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (link, is_native) in links {
        let end = if is_native { &link.native } else { &link.outside };
        *sums.entry(end.name.clone()).or_insert(0) += link.extent.iter().product::<u64>();
    }
    sums
}

#[test]
fn every_element_is_linked() {
    for name in names() {
        let model = by_name(&name).unwrap();
        let others = model.links.iter().filter(|(_, direction)| *direction != Direction::Instead);
        let native = linked(others.map(|(link, _)| (link, true)));
        let instead = model.links.iter().filter(|(_, direction)| *direction == Direction::Instead);
        for (fqn, found) in linked(instead.map(|(link, _)| (link, true))) {
            assert_eq!(Some(&found), native.get(&fqn), "{name}: {fqn}");
        }
        let without: BTreeSet<&str> = model.native_only.iter().map(|(fqn, _)| fqn.as_str()).collect();
        for param in &model.params {
            let expected = param.shape.iter().product::<u64>();
            let found = native.get(&param.fqn).copied();
            let is_there =
                found == Some(expected) || (found.is_none() && without.contains(param.fqn.as_str()));
            assert!(is_there, "{name}: {} has {found:?} of {expected} elements", param.fqn);
        }
        let params: BTreeMap<&str, &[u64]> =
            model.params.iter().map(|param| (param.fqn.as_str(), &param.shape[..])).collect();
        assert_eq!(params.len(), model.params.len(), "{name}: a name comes twice");
        for (link, _) in &model.links {
            let shape = params[link.native.name.as_str()];
            let within = link.native.shape(&link.extent);
            assert!(within.iter().zip(shape).all(|(end, len)| end <= len), "{name}: {}", link.native.name);
        }
        let both = model.links.iter().filter(|(_, direction)| *direction == Direction::Both);
        let outside: u64 = linked(both.clone().map(|(link, _)| (link, false))).values().sum();
        let native: u64 = linked(both.map(|(link, _)| (link, true))).values().sum();
        assert_eq!(outside, native, "{name}");
    }
}

/// The config that is written describes the model that wrote it.
#[test]
fn configs_come_back() {
    for name in names() {
        let model = by_name(&name).unwrap();
        let json = serde_json::to_string(&model.config).unwrap();
        let back = of_config("config.json", &json).unwrap();
        assert_eq!(back.params, model.params, "{name}");
        assert_eq!(back.links, model.links, "{name}");
        assert_eq!((back.tied, back.config), (model.tied, model.config), "{name}");
    }
}

#[test]
fn configs_that_cannot_be_are_named() {
    let wrong = |change: fn(&mut Config)| {
        let mut config = by_name("llama3:8B").unwrap().config;
        change(&mut config);
        of_config("config.json", &serde_json::to_string(&config).unwrap()).unwrap_err().to_string()
    };
    let set =
        |config: &mut Config, name: &str, value: serde_json::Value| drop(config.insert(name.into(), value));
    assert!(wrong(|config| drop(config.remove("hidden_size"))).contains("no `hidden_size`"));
    assert!(wrong(|config| config["vocab_size"] = "x".into()).contains("`vocab_size` is \"x\""));
    assert!(wrong(|config| config["vocab_size"] = u64::MAX.into()).contains("expected a size"));
    assert!(wrong(|config| config["num_hidden_layers"] = 1_000_000.into()).contains("from 1 to 4096"));
    assert!(wrong(|config| config["num_attention_heads"] = 33.into()).contains("33 heads"));
    assert!(wrong(|config| config["attention_bias"] = true.into()).contains("attention_bias"));
    assert!(wrong(|config| config["hidden_act"] = "gelu".into()).contains("computes \"silu\""));
    assert!(wrong(|config| config["model_type"] = "bert".into()).contains("bert"));
    assert!(wrong(|config| drop(config.remove("model_type"))).contains("no `model_type`"));
    assert!(of_config("config.json", "[]").unwrap_err().to_string().contains("not a JSON object"));
    assert!(by_name("llama3:9B").unwrap_err().to_string().contains("llama3:8B"));
    let mut config = by_name("qwen3:30B-A3B").unwrap().config;
    (config["num_hidden_layers"], config["num_experts"]) = (4096.into(), 4096.into());
    let many = of_config("config.json", &serde_json::to_string(&config).unwrap()).unwrap_err();
    assert!(many.to_string().contains("16777216 experts"), "{many}");
    // Transformers 5 keeps the rotary settings together.
    let mut config = by_name("qwen3:0.6B").unwrap().config;
    let old = of_config("config.json", &serde_json::to_string(&config).unwrap()).unwrap();
    config.remove("rope_theta");
    set(&mut config, "rope_parameters", serde_json::json!({"rope_type": "default", "rope_theta": 1e6}));
    let new = of_config("config.json", &serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(new.params, old.params);
}

#[test]
fn aliases_name_the_same_parameters() {
    let mut count = 0;
    for family in FAMILIES {
        for (alias, flavor) in family.aliases() {
            assert!(!family.flavors().contains(alias), "{alias} is a flavor");
            let (alias, flavor) =
                (format!("{}:{alias}", family.name()), format!("{}:{flavor}", family.name()));
            let (found, expected) = (by_name(&alias).unwrap(), by_name(&flavor).unwrap());
            assert_eq!(found.params, expected.params, "{alias}");
            assert!(alias.ends_with(&found.flavor) && names().contains(&alias), "{alias}");
            count += 1;
        }
    }
    assert_eq!(count, 5);
}

/// Queries, keys and values in one tensor: each element of it once, and each of theirs.
#[test]
fn every_element_of_what_is_together_is_linked() {
    for name in names() {
        let model = by_name(&name).unwrap();
        let has_them = matches!(model.family, "llama3" | "llama4" | "gpt_oss" | "qwen3");
        assert_eq!(!model.fused.is_empty(), has_them, "{name}");
        let shapes: BTreeMap<&str, &[u64]> =
            model.params.iter().map(|param| (param.fqn.as_str(), &param.shape[..])).collect();
        for (fqn, found) in linked(model.fused.iter().map(|link| (link, true))) {
            assert_eq!(shapes[fqn.as_str()].iter().product::<u64>(), found, "{name}: {fqn}");
        }
        let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
        for link in &model.fused {
            assert_eq!(link.native.shape(&link.extent), shapes[link.native.name.as_str()], "{name}");
            let end: u64 = link.outside.shape(&link.extent).iter().product();
            let known = ends.entry(&link.outside.name).or_default();
            *known = (*known).max(end);
        }
        for (fqn, found) in linked(model.fused.iter().map(|link| (link, false))) {
            assert_eq!(ends[fqn.as_str()], found, "{name}: {fqn}");
        }
    }
}

#[test]
fn experts_are_known_by_every_name() {
    let model = by_name("deepseek_v3:debugmodel").unwrap();
    let names = [
        "layers.1.moe.experts.w1",
        "layers.2.moe.routed_experts.inner_experts.w2_EDF",
        "layers.3.moe.experts.w3_EFD",
        "optimizer.state.layers.1.moe.experts.w1.exp_avg",
        "layers.1.moe.shared_experts.w1.weight",
        "layers.1.moe.expert_bias",
        "layers.0.attention.wo.weight",
    ]
    .map(dcp::model::Fqn::from);
    let found = model.expert_names(names.iter());
    let found: Vec<&str> = found.iter().map(|fqn| fqn.as_str()).collect();
    let mut expected: Vec<&str> = names[..4].iter().map(|fqn| fqn.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// The sizes that Meta publishes in `params.json`.
#[test]
fn params_of_meta_are_read() {
    for (flavor, json) in [
        (
            "8B",
            r#""dim": 4096, "n_layers": 32, "n_heads": 32, "ffn_dim_multiplier": 1.3, "multiple_of": 1024"#,
        ),
        (
            "70B",
            r#""dim": 8192, "n_layers": 80, "n_heads": 64, "ffn_dim_multiplier": 1.3, "multiple_of": 4096"#,
        ),
        (
            "405B",
            r#""dim": 16384, "n_layers": 126, "n_heads": 128, "ffn_dim_multiplier": 1.2, "multiple_of": 4096"#,
        ),
    ] {
        let json =
            format!("{{{json}, \"n_kv_heads\": 8, \"vocab_size\": 128256, \"use_scaled_rope\": true}}");
        let model = of_config("params.json", &json).unwrap();
        assert_eq!(model.params, by_name(&format!("llama3:{flavor}")).unwrap().params, "{flavor}");
        assert_eq!(model.config["rope_scaling"]["factor"], 8.0);
    }
    let error = of_config("params.json", r#"{"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": -1}"#);
    assert!(error.unwrap_err().to_string().contains("`vocab_size` is -1"));
    let error = of_config("params.json", r#"{"n_layers": 2, "n_heads": 4}"#).unwrap_err().to_string();
    assert!(error.contains("no `dim`"), "{error}");
}
