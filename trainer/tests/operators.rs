//! Operators that the crate tch leaves out, called by name.

use tch::{Device, Kind, Tensor};
use trainer::ffi::autograd::{backward, leaf};
use trainer::ffi::dispatch::{Arg, Value, call, call_tensor, schema};
use trainer::ffi::rng;

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max()).unwrap()
}

/// Random numbers that need no generator of the process: other tests draw from that at the same time.
fn noise(len: i64, seed: f64) -> Tensor {
    let x = Tensor::arange(len, (Kind::Double, Device::Cpu)) * 12.9898 + seed;
    ((x.sin() * 43758.5453).frac() - 0.5).to_kind(Kind::Float)
}

#[test]
fn fused_adamw_is_adamw() {
    rng::set_threads(1).unwrap();
    let (lr, beta1, beta2, decay, eps) = (8e-4, 0.9, 0.95, 0.1, 1e-8);
    // As small as weights are: what is looked for is not the rounding of large numbers.
    let start = [noise(2048, 1.0) * 0.1, noise(33, 2.0) * 0.1];
    let params: Vec<Tensor> = start.iter().map(Tensor::copy).collect();
    let zeros = || start.iter().map(Tensor::zeros_like).collect::<Vec<_>>();
    let (averages, squares) = (zeros(), zeros());
    let steps: Vec<Tensor> = start.iter().map(|_| Tensor::zeros([], F32)).collect();
    let in_f64 = |tensors: &[Tensor]| -> Vec<Vec<f64>> { tensors.iter().map(numbers).collect() };
    let (mut by_hand, mut m, mut v) = (in_f64(&start), in_f64(&averages), in_f64(&squares));
    for step in 1..=5 {
        let grads: Vec<Tensor> =
            start.iter().map(|it| noise(it.numel() as i64, 10.0 * f64::from(step))).collect();
        for count in &steps {
            let _ = count.shallow_clone().g_add_scalar_(1.0);
        }
        let (p, g): (Vec<_>, Vec<_>) = (params.iter().collect(), grads.iter().collect());
        let (a, s, c): (Vec<_>, Vec<_>, Vec<_>) =
            (averages.iter().collect(), squares.iter().collect(), steps.iter().collect());
        let args = [
            Arg::Tensors(&p),
            Arg::Tensors(&g),
            Arg::Tensors(&a),
            Arg::Tensors(&s),
            Arg::Tensors(&[]),
            Arg::Tensors(&c),
            Arg::Double(lr),
            Arg::Double(beta1),
            Arg::Double(beta2),
            Arg::Double(decay),
            Arg::Double(eps),
            Arg::Bool(false),
            Arg::Bool(false),
        ];
        assert!(call("aten::_fused_adamw_", "", &args).unwrap().is_empty());
        for (index, grad) in in_f64(&grads).iter().enumerate() {
            for (at, g) in grad.iter().enumerate() {
                let (p, m, v) = (&mut by_hand[index][at], &mut m[index][at], &mut v[index][at]);
                *p -= lr * decay * *p;
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let (m, v) = (*m / (1.0 - beta1.powi(step)), *v / (1.0 - beta2.powi(step)));
                *p -= lr * m / (v.sqrt() + eps);
            }
        }
    }
    for (param, by_hand) in params.iter().zip(&by_hand) {
        let error = difference(param, &Tensor::from_slice(by_hand));
        assert!(error < 1e-7, "{error}");
    }
    assert!(difference(&params[0], &start[0]) > 1e-3);
}

#[test]
fn lists_go_in_and_out() {
    let (a, b) = (Tensor::from_slice(&[3f32, 4.0]), Tensor::from_slice(&[5f32, 12.0]));
    let found = call("aten::_foreach_norm", "Scalar", &[Arg::Tensors(&[&a, &b]), Arg::Int(2)]).unwrap();
    let [Value::Tensors(norms)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(norms.iter().map(|norm| numbers(norm)[0]).collect::<Vec<_>>(), [5.0, 13.0]);
    assert!(
        call("aten::_foreach_mul_", "Scalar", &[Arg::Tensors(&[&a, &b]), Arg::Double(0.5)])
            .unwrap()
            .is_empty()
    );
    assert_eq!(numbers(&b), [2.5, 6.0]);
    // One of the indices is none.
    let table = Tensor::arange(6, F32).view([2, 3]);
    let columns = Tensor::from_slice(&[2i64, 0]);
    let picked = call_tensor(
        "aten::index",
        "Tensor",
        &[Arg::Tensor(&table), Arg::OptionalTensors(&[None, Some(&columns)])],
    );
    assert_eq!(numbers(&picked.unwrap()), [2.0, 0.0, 5.0, 3.0]);
    let found = call("aten::unbind", "int", &[Arg::Tensor(&table), Arg::Int(1)]).unwrap();
    assert!(matches!(&found[..], [Value::Tensors(list)] if list.len() == 3), "{found:?}");
}

#[test]
fn defaults_kinds_and_devices() {
    let args = [Arg::Ints(&[2, 3]), Arg::Kind(Kind::BFloat16), Arg::Default, Arg::Device(Device::Cpu)];
    let made = call_tensor("aten::zeros", "", &args).unwrap();
    assert_eq!((made.size(), made.kind(), made.device()), (vec![2, 3], Kind::BFloat16, Device::Cpu));
    // `correction` is a Scalar? by name only in Python; here all arguments have their places.
    let x = Tensor::from_slice(&[1f64, 3.0]);
    let std =
        call_tensor("aten::std", "correction", &[Arg::Tensor(&x), Arg::None, Arg::Int(0), Arg::Bool(true)]);
    assert_eq!(numbers(&std.unwrap()), [1.0]);
    // An integer where a float is declared, and a string.
    let gelu = call_tensor("aten::gelu", "", &[Arg::Tensor(&x), Arg::Str("tanh")]).unwrap();
    assert!(difference(&gelu, &x.gelu("tanh")) == 0.0);
    let dropped = call_tensor("aten::dropout", "", &[Arg::Tensor(&x), Arg::Int(0), Arg::Bool(true)]).unwrap();
    assert_eq!(numbers(&dropped), [1.0, 3.0]);
    let same = call("aten::equal", "", &[Arg::Tensor(&x), Arg::Tensor(&x)]).unwrap();
    assert!(matches!(same[..], [Value::Bool(true)]), "{same:?}");
    let scaled = Arg::Doubles(&[2.0, 3.0]);
    let image = Tensor::ones([1, 1, 2, 2], F32);
    let args = [Arg::Tensor(&image), Arg::None, Arg::Bool(false), scaled];
    assert_eq!(call_tensor("aten::upsample_bilinear2d", "vec", &args).unwrap().size(), [1, 1, 4, 6]);
}

#[test]
fn a_call_makes_a_graph() {
    let (x, weight) = (leaf(&noise(12, 3.0).view([3, 4])), leaf(&Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0])));
    let args = [Arg::Tensor(&x), Arg::Ints(&[4]), Arg::Tensor(&weight), Arg::Double(1e-5)];
    let found = call("aten::_fused_rms_norm", "", &args).unwrap();
    let [Value::Tensor(y), Value::Tensor(_)] = &found[..] else { panic!("{found:?}") };
    backward(&[&y.square().sum(Kind::Float)], &[None], false).unwrap();
    let (x2, weight2) = (leaf(&x), leaf(&weight));
    let rms = (x2.square().mean_dim([1i64].as_slice(), true, Kind::Float) + 1e-5).rsqrt();
    let by_hand = &x2 * rms * &weight2;
    backward(&[&by_hand.square().sum(Kind::Float)], &[None], false).unwrap();
    assert!(difference(y, &by_hand) < 1e-6);
    assert!(difference(&x.grad(), &x2.grad()) < 1e-4 && difference(&weight.grad(), &weight2.grad()) < 1e-4);
}

#[test]
fn what_is_wrong_is_said() {
    let x = Tensor::zeros([2], F32);
    let message = |name: &str, args: &[Arg]| call(name, "", args).map(drop).unwrap_err().to_string();
    assert!(message("aten::no_such_operator", &[]).starts_with("aten::no_such_operator: "));
    assert!(message("aten::relu", &[]).contains("argument self has no default"));
    assert!(message("aten::relu", &[Arg::Tensor(&x), Arg::Int(1)]).contains("takes 1 arguments, got 2"));
    assert!(
        message("aten::relu", &[Arg::Int(1)]).contains("relu"),
        "{}",
        message("aten::relu", &[Arg::Int(1)])
    );
    assert!(message("aten::mm", &[Arg::Tensor(&x), Arg::Tensor(&x)]).contains("must be a matrix"));
    assert!(schema("aten::mm", "").unwrap().unwrap().contains("Tensor mat2"));
    assert_eq!(schema("aten::mm", "no_such").unwrap(), None);
    call_tensor("aten::equal", "", &[Arg::Tensor(&x), Arg::Tensor(&x)]).unwrap_err();
}
