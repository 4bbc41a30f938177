//! Settings of the optimizer and its schedule, as PyTorch keeps them beside the state.

use super::names::{LR_SCHEDULER, OPTIMIZER};
use crate::optimizer::Settings;
use dcp::Result;
use dcp::format::Reader;
use dcp::model::Value;
use job::config::{Config, Implementation, OptimizerName};
use job::lr::Schedule;

/// Settings of a run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hyper {
    /// The highest learning rate.
    pub lr: f64,
    /// Of the first moment, and of the second.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Per step and learning rate.
    pub weight_decay: f64,
    /// Which optimizer.
    pub name: OptimizerName,
    /// How the update is computed.
    pub implementation: Implementation,
    /// The learning rate over the steps.
    pub schedule: Schedule,
}

impl Hyper {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        let optimizer = &config.optimizer;
        Hyper {
            lr: optimizer.lr,
            betas: (optimizer.beta1, optimizer.beta2),
            eps: optimizer.eps,
            weight_decay: optimizer.weight_decay,
            name: optimizer.name,
            implementation: optimizer.implementation,
            schedule: Schedule::new(config),
        }
    }

    /// Settings of the optimizer after so many steps of the schedule.
    pub fn settings(&self, step: u64) -> Settings {
        let Hyper { betas, eps, weight_decay, .. } = *self;
        Settings { lr: self.lr_at(step), betas, eps, weight_decay }
    }

    fn lr_at(&self, step: u64) -> f64 {
        self.lr * self.schedule.factor(step)
    }

    /// The options that `torch.optim.AdamW` and `Adam` of PyTorch 2.11 keep of a parameter, and the one that its schedulers
    /// add, after so many steps.
    pub(super) fn param_group(&self, step: u64) -> [(&'static str, Value); 12] {
        let is = |implementation| Value::Bool(self.implementation == implementation);
        let (first, second) = self.betas;
        [
            ("lr", Value::Float(self.lr_at(step))),
            ("betas", Value::Tuple(vec![Value::Float(first), Value::Float(second)])),
            ("eps", Value::Float(self.eps)),
            ("weight_decay", Value::Float(self.weight_decay)),
            ("amsgrad", Value::Bool(false)),
            ("maximize", Value::Bool(false)),
            ("foreach", is(Implementation::Foreach)),
            ("capturable", Value::Bool(false)),
            ("differentiable", Value::Bool(false)),
            ("fused", is(Implementation::Fused)),
            ("decoupled_weight_decay", Value::Bool(self.name == OptimizerName::AdamW)),
            ("initial_lr", Value::Float(self.lr)),
        ]
    }

    /// What `torch.optim.lr_scheduler.LambdaLR` of PyTorch 2.11 keeps after so many steps.
    pub(super) fn lr_scheduler(&self, step: u64) -> [(&'static str, Value); 6] {
        let list = |number| Value::List(vec![Value::Float(number)]);
        [
            ("base_lrs", list(self.lr)),
            ("last_epoch", Value::Int(step as i64)),
            ("_step_count", Value::Int(step as i64 + 1)),
            ("_is_initial", Value::Bool(false)),
            ("_get_lr_called_within_step", Value::Bool(false)),
            ("_last_lr", list(self.lr_at(step))),
        ]
    }
}

/// What a checkpoint says of the optimizer's settings. They are not taken over: the configuration counts. TorchTitan, as all
/// that loads PyTorch's optimizers, goes on with those of the checkpoint.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stored {
    lr: Option<f64>,
    betas: Option<(f64, f64)>,
    eps: Option<f64>,
    weight_decay: Option<f64>,
}

impl Stored {
    /// Reads those of one parameter: TorchTitan has one group, and all are alike.
    pub(super) fn read(reader: &dyn Reader, fqn: &str) -> Result<Self> {
        let value = |option: &str| -> Result<Option<Value>> {
            let name = format!("{OPTIMIZER}.param_groups.{fqn}.{option}");
            let found = reader.catalog().values.get_key_value(name.as_str());
            found.map(|(fqn, _)| reader.value(fqn)).transpose()
        };
        let number = |option: &str| Ok::<_, dcp::Error>(value(option)?.as_ref().and_then(as_number));
        let betas = match value("betas")? {
            Some(Value::Tuple(betas) | Value::List(betas)) => match &betas[..] {
                [first, second] => as_number(first).zip(as_number(second)),
                _ => None,
            },
            _ => None,
        };
        let lr = match number("initial_lr")? {
            Some(lr) => Some(lr),
            None => base_lr(reader)?,
        };
        Ok(Stored { lr, betas, eps: number("eps")?, weight_decay: number("weight_decay")? })
    }

    /// One sentence for each setting that the configuration has otherwise.
    pub fn differences(&self, hyper: &Hyper) -> Vec<String> {
        let (first, second) = self.betas.unzip();
        let settings = [
            ("lr", self.lr, hyper.lr),
            ("beta1", first, hyper.betas.0),
            ("beta2", second, hyper.betas.1),
            ("eps", self.eps, hyper.eps),
            ("weight_decay", self.weight_decay, hyper.weight_decay),
        ];
        let differs = |(key, stored, own): (&str, Option<f64>, f64)| {
            let stored = stored.filter(|&stored| stored != own)?;
            Some(format!(
                "optimizer.{key} was {stored:?} when the checkpoint was saved and is {own:?} now, which counts; TorchTitan \
                 would go on with {stored:?}"
            ))
        };
        settings.into_iter().filter_map(differs).collect()
    }
}

fn base_lr(reader: &dyn Reader) -> Result<Option<f64>> {
    let found = reader.catalog().values.get_key_value(format!("{LR_SCHEDULER}.base_lrs").as_str());
    Ok(match found.map(|(fqn, _)| reader.value(fqn)).transpose()? {
        Some(Value::List(lrs)) => lrs.first().and_then(as_number),
        _ => None,
    })
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Int(number) => Some(*number as f64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_and_what_is_not_stored_does_not_differ() {
        let hyper = Hyper::new(&Config::default());
        assert_eq!(Stored::default().differences(&hyper), Vec::<String>::new());
        let same = Stored {
            lr: Some(hyper.lr),
            betas: Some(hyper.betas),
            eps: Some(hyper.eps),
            weight_decay: Some(hyper.weight_decay),
        };
        assert_eq!(same.differences(&hyper), Vec::<String>::new());
        let other = Stored { lr: Some(1e-3), betas: Some((0.9, 0.99)), ..same };
        let found = other.differences(&hyper);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("optimizer.lr was 0.001 when the checkpoint was saved and is 0.0008 now, ")
        );
        assert!(found[1].starts_with("optimizer.beta2 was 0.99 "), "{found:?}");
    }
}
