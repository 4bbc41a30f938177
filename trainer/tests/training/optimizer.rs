//! Adam and AdamW in every implementation, against what the real PyTorch made of the same gradients
//! (`fixtures/optimizer/adam`).

use crate::support::numbers;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor, no_grad};
use trainer::groups::Groups;
use trainer::optimizer::{Implementation, Optimizer, Rule, Settings};
use trainer::shard::{Param, ParamSpec, Precision, Unit};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/optimizer/adam");

fn param(name: &str, shape: Vec<i64>) -> ParamSpec {
    ParamSpec { fqn: name.to_owned(), name: name.to_owned(), shape, tp_dim: None }
}

struct Fixture {
    said: Value,
    tensors: BTreeMap<String, Tensor>,
}

/// One way to update.
struct Case<'a> {
    name: &'a str,
    rule: Rule,
    implementation: Implementation,
    weight_decay: f64,
    kind: Kind,
}

impl<'a> Case<'a> {
    fn new(said: &'a Value) -> Self {
        let text = |key: &str| said[key].as_str().unwrap();
        Case {
            name: text("name"),
            rule: if text("rule") == "Adam" { Rule::Adam } else { Rule::AdamW },
            implementation: match text("implementation") {
                "fused" => Implementation::Fused,
                "foreach" => Implementation::Foreach,
                _ => Implementation::ForLoop,
            },
            weight_decay: said["weight_decay"].as_f64().unwrap(),
            kind: if text("dtype") == "float32" { Kind::Float } else { Kind::BFloat16 },
        }
    }
}

impl Fixture {
    fn open() -> Self {
        let path = |name: &str| Path::new(FOLDER).join(name);
        let said = std::fs::read_to_string(path("updates.json")).unwrap();
        let tensors = Tensor::read_safetensors(path("updates.safetensors")).unwrap();
        Fixture { said: serde_json::from_str(&said).unwrap(), tensors: tensors.into_iter().collect() }
    }

    fn cases(&self) -> Vec<Case<'_>> {
        self.said["cases"].as_array().unwrap().iter().map(Case::new).collect()
    }

    /// Runs the steps; gives the end of every parameter with what is kept of it, by name.
    fn run(&self, case: &Case) -> BTreeMap<String, Tensor> {
        let params = self.said["params"].as_object().unwrap();
        let shape =
            |shape: &Value| shape.as_array().unwrap().iter().map(|size| size.as_i64().unwrap()).collect();
        let params = params.iter().map(|(name, of)| param(name, shape(of)));
        let precision = Precision { stored: case.kind, param: case.kind, reduce: Kind::Float };
        let mut unit = Unit::new(params, &Groups::default(), precision, Device::Cpu).unwrap();
        for param in &mut unit.params {
            let begin = self.tensors[&format!("{}.begin", param.fqn)].to_kind(case.kind);
            no_grad(|| param.shard.copy_(&begin));
        }
        let mut units = vec![unit];
        let mut optimizer = Optimizer::new(case.rule, case.implementation, &units).unwrap();
        let beta = |index: usize| self.said["betas"][index].as_f64().unwrap();
        for (index, step) in self.said["steps"].as_array().unwrap().iter().enumerate() {
            for param in &mut units[0].params {
                let grad = self.tensors.get(&format!("{}.grad.{index}", param.fqn));
                param.grad = grad.map(|grad| grad.to_kind(case.kind).copy());
            }
            let settings = Settings {
                lr: step["lr"].as_f64().unwrap(),
                betas: (beta(0), beta(1)),
                eps: self.said["eps"].as_f64().unwrap(),
                weight_decay: case.weight_decay,
            };
            optimizer.step(&mut units, settings).unwrap();
            assert!(units[0].params.iter().all(|param| param.grad.is_none()), "gradients are left");
        }
        let mut ends = BTreeMap::new();
        for (Param { fqn, shard, .. }, kept) in units[0].params.iter().zip(&optimizer.state[0]) {
            let parts = [
                ("param", shard),
                ("exp_avg", &kept.exp_avg),
                ("exp_avg_sq", &kept.exp_avg_sq),
                ("step", &kept.step),
            ];
            ends.extend(parts.map(|(part, tensor)| (format!("{fqn}.{part}"), tensor.detach())));
        }
        ends
    }

    /// Whether an end is that of a case: to the rounding of float32; in bfloat16 every bit but of one element in fifty, for
    /// a vector unit may round what is between otherwise, and then by one place at most.
    fn check(&self, case: &str, ends: &BTreeMap<String, Tensor>) -> Result<(), String> {
        let (mut elements, mut others) = (0, 0);
        for (name, found) in ends {
            let expected = &self.tensors[&format!("{case}.{name}")];
            assert_eq!((found.kind(), found.size()), (expected.kind(), expected.size()), "{case}.{name}");
            let place = if found.kind() == Kind::Float { 1e-6 } else { 1f64 / 128.0 };
            for (found, expected) in numbers(found).iter().zip(numbers(expected)) {
                elements += 1;
                others += u32::from(*found != expected);
                if (found - expected).abs() > place * expected.abs() + 1e-30 {
                    return Err(format!("{case}.{name}: {found}, PyTorch has {expected}"));
                }
            }
        }
        match others * 50 > elements && case.ends_with("bfloat16") {
            true => Err(format!("{case}: {others} of {elements} elements are not PyTorch's")),
            false => Ok(()),
        }
    }
}

#[test]
fn every_implementation_computes_as_pytorch_does() {
    let fixture = Fixture::open();
    let cases = fixture.cases();
    assert_eq!(cases.len(), 24);
    for case in cases {
        fixture.check(case.name, &fixture.run(&case)).unwrap();
    }
}

/// Else the test above would not see one implementation in place of another.
#[test]
fn in_bfloat16_no_implementation_is_another() {
    let fixture = Fixture::open();
    for case in fixture.cases().iter().filter(|case| case.kind == Kind::BFloat16) {
        let ends = fixture.run(case);
        let (rule, rest) = case.name.split_once('.').unwrap();
        let (own, rest) = rest.split_once('.').unwrap();
        for other in ["fused", "foreach", "for-loop"].iter().filter(|other| **other != own) {
            fixture.check(&format!("{rule}.{other}.{rest}"), &ends).unwrap_err();
        }
    }
}

#[test]
fn a_step_without_gradients_changes_nothing() {
    for implementation in [Implementation::Fused, Implementation::Foreach, Implementation::ForLoop] {
        let params = [param("weight", vec![3, 2])];
        let precision = Precision { stored: Kind::Float, param: Kind::Float, reduce: Kind::Float };
        let mut units = vec![Unit::new(params, &Groups::default(), precision, Device::Cpu).unwrap()];
        let _ = no_grad(|| units[0].params[0].shard.fill_(2.0));
        let mut optimizer = Optimizer::new(Rule::AdamW, implementation, &units).unwrap();
        let settings = Settings { lr: 0.1, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
        optimizer.step(&mut units, settings).unwrap();
        assert_eq!(numbers(&units[0].params[0].shard), [2.0; 6]);
        assert_eq!(numbers(&optimizer.state[0][0].step), [0.0]);
    }
}
