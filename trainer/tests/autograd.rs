//! Gradients against what they are by hand, and what becomes of errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::{Device, Kind, Tensor};
use trainer::Error;
use trainer::ffi::autograd::{
    Closures, Function, apply, backward, grad, grad_enabled, leaf, rewriting, set_grad, take_grad, version,
};
use trainer::ffi::{memory, rng};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.contiguous().view(-1)).unwrap()
}

fn of(values: &[f32]) -> Tensor {
    leaf(&Tensor::from_slice(values))
}

fn one(mut tensors: Vec<Tensor>) -> Tensor {
    assert_eq!(tensors.len(), 1);
    tensors.pop().unwrap()
}

/// `x * y` and `x + y`.
struct ProductAndSum {
    drops: Arc<AtomicUsize>,
}

impl Function for ProductAndSum {
    fn forward(&mut self, inputs: &[Tensor], save: &mut Vec<Tensor>) -> trainer::Result<Vec<Tensor>> {
        assert!(!grad_enabled());
        save.extend(inputs.iter().map(Tensor::shallow_clone));
        Ok(vec![&inputs[0] * &inputs[1], &inputs[0] + &inputs[1]])
    }

    fn backward(
        &mut self,
        grads: &[Option<Tensor>],
        saved: &[Tensor],
    ) -> trainer::Result<Vec<Option<Tensor>>> {
        let through = |other: &Tensor| match (&grads[0], &grads[1]) {
            (Some(product), Some(sum)) => Some(product * other + sum),
            (Some(product), None) => Some(product * other),
            (None, sum) => sum.as_ref().map(Tensor::shallow_clone),
        };
        Ok(vec![through(&saved[1]), through(&saved[0])])
    }
}

impl Drop for ProductAndSum {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_function_of_several_inputs_and_outputs() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (x, y) = (of(&[1.0, 2.0, 3.0]), of(&[4.0, 5.0, 6.0]));
    {
        let outputs = apply(ProductAndSum { drops: drops.clone() }, &[&x, &y]).unwrap();
        assert_eq!(numbers(&outputs[0]), [4.0, 10.0, 18.0]);
        assert_eq!(numbers(&outputs[1]), [5.0, 7.0, 9.0]);
        let (product, sum) = (Tensor::from_slice(&[1f32, 10.0, 100.0]), Tensor::from_slice(&[0.5f32; 3]));
        backward(&[&outputs[0], &outputs[1]], &[Some(&product), Some(&sum)], true).unwrap();
        assert_eq!(numbers(&take_grad(&x).unwrap().unwrap()), [4.5, 50.5, 600.5]);
        assert_eq!(numbers(&take_grad(&y).unwrap().unwrap()), [1.5, 20.5, 300.5]);
        // The gradient of the other output is none, not a tensor of zeros.
        backward(&[&outputs[1]], &[Some(&sum)], false).unwrap();
        assert_eq!(numbers(&x.grad()), [0.5; 3]);
        assert_eq!(drops.load(Ordering::SeqCst), 0);
    }
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    // No graph: dropped at once.
    let outputs = apply(ProductAndSum { drops: drops.clone() }, &[&x.detach(), &y.detach()]).unwrap();
    assert!(!outputs[0].requires_grad());
    let outputs_of_no_grad =
        tch::no_grad(|| apply(ProductAndSum { drops: drops.clone() }, &[&x, &y]).unwrap());
    assert!(!outputs_of_no_grad[0].requires_grad());
    assert_eq!(drops.load(Ordering::SeqCst), 3);
}

#[test]
fn gradients_accumulate_and_are_taken_away() {
    let x = of(&[1.0, 2.0]);
    let square = || (&x * &x).sum(Kind::Float);
    backward(&[&square()], &[None], false).unwrap();
    backward(&[&square()], &[None], false).unwrap();
    assert_eq!(numbers(&x.grad()), [4.0, 8.0]);
    assert_eq!(numbers(&take_grad(&x).unwrap().unwrap()), [4.0, 8.0]);
    assert!(take_grad(&x).unwrap().is_none() && !x.grad().defined());
    set_grad(&x, Some(&Tensor::from_slice(&[100f32, 200.0]))).unwrap();
    backward(&[&square()], &[None], false).unwrap();
    assert_eq!(numbers(&x.grad()), [102.0, 204.0]);
    set_grad(&x, None).unwrap();
    assert!(!x.grad().defined());
    for wrong in [Tensor::zeros([3], F32), Tensor::zeros([2], (Kind::Double, Device::Cpu))] {
        assert!(matches!(set_grad(&x, Some(&wrong)), Err(Error::Usage(_))));
    }
}

#[test]
fn gradients_of_chosen_inputs() {
    let (x, unused) = (of(&[1.0, 2.0]), of(&[3.0]));
    let hidden = &x * 3.0;
    let out = &hidden * &hidden;
    let weight = Tensor::from_slice(&[1f32, 0.5]);
    let found = grad(&[&out], &[&x, &hidden, &unused], &[Some(&weight)], true, true).unwrap();
    assert_eq!(numbers(found[0].as_ref().unwrap()), [18.0, 18.0]);
    assert_eq!(numbers(found[1].as_ref().unwrap()), [6.0, 6.0]);
    assert!(found[2].is_none() && !x.grad().defined());
    let error = grad(&[&out], &[&unused], &[Some(&weight)], true, false).unwrap_err().to_string();
    assert!(error.starts_with("grad: "), "{error}");
    backward(&[&out], &[Some(&weight)], false).unwrap();
    backward(&[&out], &[Some(&weight)], false).unwrap_err();
    assert!(matches!(backward(&[&out], &[], false), Err(Error::Usage(_))));
    backward(&[&out], &[None], false).unwrap_err();
}

#[test]
fn errors_and_panics_become_errors_of_the_call() {
    let x = of(&[1.0]);
    let double = |inputs: &[Tensor], _: &mut Vec<Tensor>| Ok(vec![&inputs[0] * 2.0]);
    let panics = Closures {
        forward: double,
        backward: |_: &[Option<Tensor>], _: &[Tensor]| panic!("on purpose, at step {}", 7),
    };
    let y = one(apply(panics, &[&x]).unwrap());
    let error = backward(&[&y], &[None], false).unwrap_err().to_string();
    assert_eq!(error, "backward: panic: on purpose, at step 7");

    let fails = Closures {
        forward: double,
        backward: |_: &[Option<Tensor>], _: &[Tensor]| Err(Error::Usage("no such expert".into())),
    };
    let y = one(apply(fails, &[&x]).unwrap());
    let error = grad(&[&y], &[&x], &[None], false, false).unwrap_err().to_string();
    assert_eq!(error, "grad: no such expert");

    let fails = Closures {
        forward: |inputs: &[Tensor], _: &mut Vec<Tensor>| {
            Ok(vec![inputs[0].matmul(&inputs[0].view([1, 1, 1, 1]))])
        },
        backward: |_: &[Option<Tensor>], _: &[Tensor]| unreachable!(),
    };
    let error = apply(fails, &[&Tensor::zeros([3], F32)]).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("apply: panic: "), "{error}");

    // Too few gradients.
    let wrong = Closures { forward: double, backward: |_: &[Option<Tensor>], _: &[Tensor]| Ok(vec![]) };
    let y = one(apply(wrong, &[&x]).unwrap());
    backward(&[&y], &[None], false).unwrap_err();
}

#[test]
fn a_boxed_function_is_a_function() {
    let function: Box<dyn Function> = Box::new(Closures {
        forward: |inputs: &[Tensor], _: &mut Vec<Tensor>| Ok(vec![inputs[0].exp()]),
        backward: |grads: &[Option<Tensor>], _: &[Tensor]| Ok(vec![grads[0].as_ref().map(|grad| grad * 2.0)]),
    });
    let x = of(&[0.0, 1.0]);
    backward(&[&one(apply(function, &[&x]).unwrap()).sum(Kind::Float)], &[None], false).unwrap();
    assert_eq!(numbers(&x.grad()), [2.0, 2.0]);
}

#[test]
fn backward_on_another_thread() {
    let x = of(&[3.0]);
    let y = &x * &x;
    std::thread::spawn(move || backward(&[&y], &[None], false).unwrap()).join().unwrap();
    assert_eq!(numbers(&x.grad()), [6.0]);
}

#[test]
fn memory_given_up_after_the_forward_and_written_again_before_the_backward() {
    let values = [1f32, 2.0, 3.0];
    for honest in [true, false] {
        let gathered = Tensor::from_slice(&values);
        let (weight, x) = (leaf(&gathered), of(&[4.0, 5.0, 6.0]));
        let loss = (&weight * &x).sum(Kind::Float);
        memory::free_storage(&gathered).unwrap();
        memory::allocate_storage(&gathered, 12).unwrap();
        let before = version(&gathered).unwrap();
        let write = || gathered.shallow_clone().copy_(&Tensor::from_slice(&values));
        if honest {
            write();
            let error = backward(&[&loss], &[None], false).unwrap_err().to_string();
            assert!(error.contains("inplace operation"), "{error}");
            assert!(version(&gathered).unwrap() > before);
        } else {
            rewriting(&[&gathered], write).unwrap();
            assert_eq!(version(&gathered).unwrap(), before);
            backward(&[&loss], &[None], false).unwrap();
            assert_eq!(numbers(&x.grad()), values);
            assert_eq!(numbers(&weight.grad()), [4.0, 5.0, 6.0]);
        }
    }
}

/// Through bytes, as a checkpoint on disk keeps it. One test, since the generator is the process's.
#[test]
fn a_generator_whose_state_is_set_again_gives_the_same_numbers() {
    let state = rng::state(Device::Cpu).unwrap();
    let drawn = numbers(&Tensor::randn([100], F32));
    assert_ne!(numbers(&Tensor::randn([100], F32)), drawn);
    let kept = rng::RngState::from_bytes(state.as_bytes().to_vec());
    rng::set_state(Device::Cpu, &kept).unwrap();
    assert_eq!(numbers(&Tensor::randn([100], F32)), drawn);
}
