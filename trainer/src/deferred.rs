//! Gradients of weights that are computed later than that of the input (zero-bubble pipelines, Qi et al. 2023,
//! arXiv 2401.10241).
//!
//! A product `y = x w^T` whose graph this module makes gives, on the way back, the gradient of `x` at once, and puts `x` and
//! the gradient of `y` on a list. Of what is on the list the gradients of weights are computed when it is time. Nothing is
//! computed twice. Other parameters, of norms, get their gradients on the way back: they cost nothing.

use crate::error::Result;
use crate::ffi::autograd::{Closures, apply, set_grad, take_grad};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Tensor, no_grad};

/// The products of a unit for one microbatch, whose weights have no gradient yet.
#[derive(Clone, Default, Debug)]
pub struct Products(Arc<Mutex<Vec<Product>>>);

#[derive(Debug)]
struct Product {
    weight: Tensor,
    input: Tensor,
    /// Of the output.
    grad: Tensor,
}

impl Products {
    /// The product of an input `[.., in]` and a weight `[out, in]`, a leaf.
    ///
    /// Errors: what libtorch gives.
    pub fn product(&self, weight: &Tensor, input: &Tensor) -> Result<Tensor> {
        let (list, leaf) = (self.clone(), weight.shallow_clone());
        let function = Closures {
            forward: |inputs: &[Tensor], save: &mut Vec<Tensor>| {
                save.extend(inputs.iter().map(Tensor::shallow_clone));
                Ok(vec![inputs[0].f_linear(&inputs[1], None::<&Tensor>)?])
            },
            backward: move |grads: &[Option<Tensor>], saved: &[Tensor]| {
                let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
                let product =
                    Product { weight: leaf.shallow_clone(), input: saved[0].detach(), grad: grad.detach() };
                list.list().push(product);
                Ok(vec![Some(grad.f_matmul(&saved[1])?), None])
            },
        };
        Ok(apply(function, &[input, weight])?.remove(0))
    }

    /// Adds what was put off to the gradients of the weights.
    ///
    /// Errors: what libtorch gives.
    pub fn add_to_grads(&self) -> Result<()> {
        let products = std::mem::take(&mut *self.list());
        for Product { weight, input, grad } in products {
            no_grad(|| {
                let rows = |tensor: &Tensor| tensor.f_flatten(0, -2);
                let of_weight = rows(&grad)?.f_transpose(0, 1)?.f_mm(&rows(&input)?)?;
                let sum = match take_grad(&weight)? {
                    Some(mut before) => before.f_add_(&of_weight)?,
                    None => of_weight,
                };
                set_grad(&weight, Some(&sum))
            })?;
        }
        Ok(())
    }

    fn list(&self) -> MutexGuard<'_, Vec<Product>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::autograd::{backward, leaf};
    use tch::{Device, Kind, with_grad};

    #[test]
    fn gradients_are_those_of_a_plain_product() {
        let of = |rows: i64| (Tensor::arange(rows * 6, (Kind::Float, Device::Cpu)) * 0.7).sin();
        let (weight, input) = (leaf(&of(4).view([4, 6])), leaf(&of(6).view([2, 3, 6])));
        let plain = with_grad(|| input.linear(&weight, None::<&Tensor>));
        let grad = of(4).view([2, 3, 4]);
        let mut expected = Vec::new();
        for _ in 0..2 {
            backward(&[&plain], &[Some(&grad)], true).unwrap();
            expected.push(take_grad(&input).unwrap().unwrap());
        }
        let of_weight = take_grad(&weight).unwrap().unwrap();

        let products = Products::default();
        for expected in expected {
            let output = with_grad(|| products.product(&weight, &input)).unwrap();
            assert!(output.equal(&plain));
            backward(&[&output], &[Some(&grad)], false).unwrap();
            assert!(take_grad(&input).unwrap().unwrap().equal(&expected));
            assert!(take_grad(&weight).unwrap().is_none());
        }
        products.add_to_grads().unwrap();
        assert!(take_grad(&weight).unwrap().unwrap().equal(&of_weight));
        products.add_to_grads().unwrap();
        assert!(take_grad(&weight).unwrap().is_none());
    }
}
