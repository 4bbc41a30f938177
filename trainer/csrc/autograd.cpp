// Functions differentiated by Rust closures, backward, and what is around gradients.
#include "titan.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

extern "C" {

// A Rust closure: takes tensors, pushes its results into `out` with `titan_push`, and gives an error's message or null.
// `backward` false: `tensors` are inputs, and what is pushed into `save` is handed to backward as `saved`.
// `backward` true: `tensors` are gradients; null for those that are zero.
typedef char* (*titan_call)(
    void* env, bool backward, at::Tensor* const* tensors, size_t count, at::Tensor* const* saved,
    size_t saved_count, void* out, void* save);
typedef void (*titan_drop)(void* env);
typedef void (*titan_emit)(void* sink, at::Tensor* tensor);
}

namespace {

// The closure with its environment, owned by the node of the graph.
struct Closure : torch::CustomClassHolder {
  void* env;
  titan_call call;
  titan_drop drop;
  Closure(void* env, titan_call call, titan_drop drop) : env(env), call(call), drop(drop) {}
  ~Closure() override { drop(env); }

  variable_list run(bool backward, const variable_list& tensors, const variable_list& saved, variable_list* save) {
    auto pointers = [](const variable_list& list) {
      std::vector<at::Tensor*> pointers;
      for (const auto& tensor : list) {
        pointers.push_back(tensor.defined() ? const_cast<at::Tensor*>(&tensor) : nullptr);
      }
      return pointers;
    };
    auto in = pointers(tensors);
    auto kept = pointers(saved);
    variable_list out;
    if (char* error = call(env, backward, in.data(), in.size(), kept.data(), kept.size(), &out, save)) {
      std::string message(error);
      free(error);
      throw std::runtime_error(message);
    }
    return out;
  }
};

struct RustFunction : torch::autograd::Function<RustFunction> {
  // A list of another type than TensorList would silently not count as variables.
  static variable_list forward(AutogradContext* ctx, c10::intrusive_ptr<Closure> closure, at::TensorList inputs) {
    variable_list save;
    auto out = closure->run(false, inputs.vec(), {}, &save);
    ctx->save_for_backward(save);
    ctx->set_materialize_grads(false);
    ctx->saved_data["closure"] = c10::IValue::make_capsule(closure);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto closure = c10::static_intrusive_pointer_cast<Closure>(ctx->saved_data["closure"].toCapsule());
    auto out = closure->run(true, grads, ctx->get_saved_variables(), nullptr);
    out.insert(out.begin(), at::Tensor());  // forward's first argument, the closure
    return out;
  }
};

variable_list list(at::Tensor* const* tensors, size_t count) {
  variable_list list;
  for (size_t i = 0; i < count; i++) list.push_back(tensors[i] ? *tensors[i] : at::Tensor());
  return list;
}

}  // namespace

extern "C" {

at::Tensor* titan_clone(at::Tensor* tensor) { return new at::Tensor(*tensor); }

// `tensor` null: undefined, for a gradient that is zero.
void titan_push(void* sink, at::Tensor* tensor) {
  static_cast<variable_list*>(sink)->push_back(tensor ? *tensor : at::Tensor());
}

// Takes `env`, and drops it with the graph, or before it returns where no graph is made.
char* titan_apply(
    void* env, titan_call call, titan_drop drop, at::Tensor* const* inputs, size_t count, void* sink,
    titan_emit emit) {
  TITAN_TRY(
      auto closure = c10::make_intrusive<Closure>(env, call, drop);
      auto variables = list(inputs, count);
      for (auto& out : RustFunction::apply(closure, at::TensorList(variables))) {
        emit(sink, new at::Tensor(out));
      })
}

// Entries of `grads` may be null, for outputs of one element.
char* titan_backward(at::Tensor* const* outputs, at::Tensor* const* grads, size_t count, bool retain_graph) {
  TITAN_TRY(torch::autograd::backward(list(outputs, count), list(grads, count), retain_graph, false))
}

// Writes null for an input that the outputs do not depend on.
char* titan_grad(
    at::Tensor* const* outputs, at::Tensor* const* grads, size_t count, at::Tensor* const* inputs,
    size_t input_count, bool retain_graph, bool allow_unused, at::Tensor** out) {
  TITAN_TRY(
      auto result = torch::autograd::grad(
          list(outputs, count), list(inputs, input_count), list(grads, count), retain_graph, false, allow_unused);
      for (size_t i = 0; i < input_count; i++) out[i] = result[i].defined() ? new at::Tensor(result[i]) : nullptr)
}

// Takes a tensor's gradient away, null where it has none.
char* titan_take_grad(at::Tensor* tensor, at::Tensor** out) {
  TITAN_TRY(
      auto& grad = tensor->mutable_grad();
      *out = grad.defined() ? new at::Tensor(std::move(grad)) : nullptr;
      grad = at::Tensor())
}

// `grad` null: none.
char* titan_set_grad(at::Tensor* tensor, at::Tensor* grad) {
  TITAN_TRY(tensor->mutable_grad() = grad ? *grad : at::Tensor())
}

bool titan_grad_enabled() { return at::GradMode::is_enabled(); }

char* titan_version(at::Tensor* tensor, int64_t* out) {
  TITAN_TRY(*out = static_cast<int64_t>(tensor->unsafeGetTensorImpl()->version_counter().current_version()))
}

char* titan_set_version(at::Tensor* tensor, int64_t version) {
  // A copy of the counter counts for the same tensors.
  TITAN_TRY(
      auto counter = tensor->unsafeGetTensorImpl()->version_counter();
      counter.set_version(version))
}

}  // extern "C"
