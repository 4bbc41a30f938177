// A call of any registered operator by its name, through the dispatcher, as the Python bindings of torch.ops do it.
#include "titan.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <ATen/core/stack.h>

#include <sstream>

extern "C" {

// Kinds of arguments and results; `Kind` in `src/ffi/dispatch.rs` is the same list.
enum TitanKind : int32_t {
  TITAN_NONE = 0,
  TITAN_TENSOR = 1,
  TITAN_INT = 2,
  TITAN_DOUBLE = 3,
  TITAN_BOOL = 4,
  TITAN_INTS = 5,
  TITAN_DOUBLES = 6,
  TITAN_TENSORS = 7,
  TITAN_OPTIONAL_TENSORS = 8,
  TITAN_STRING = 9,
  TITAN_DEVICE = 10,
  TITAN_DEFAULT = 11,
};

struct TitanArg {
  int32_t kind;
  int32_t device_type;   // DEVICE
  int64_t integer;       // INT, BOOL, and DEVICE's index
  double real;           // DOUBLE
  const void* pointer;   // TENSOR, STRING, and the elements of lists
  size_t count;          // of a list
};

// Takes one result. Of a list, first its kind and length come, then each of its elements.
typedef void (*titan_result)(void* sink, int32_t kind, at::Tensor* tensor, int64_t integer, double real);
}

namespace {

template <typename T>
c10::List<T> tensors(const TitanArg& arg) {
  auto elements = static_cast<at::Tensor* const*>(arg.pointer);
  c10::List<T> list;
  for (size_t i = 0; i < arg.count; i++) list.push_back(elements[i] ? T(*elements[i]) : T());
  return list;
}

bool takes_double(const c10::TypePtr& type) {
  if (auto optional = type->cast<c10::OptionalType>()) return takes_double(optional->getElementType());
  return type->kind() == c10::TypeKind::FloatType;
}

bool takes_scalars(const c10::TypePtr& type) {
  auto list = type->cast<c10::ListType>();
  return list && list->getElementType()->kind() == c10::TypeKind::NumberType;
}

c10::IValue value(const TitanArg& arg, const c10::Argument& declared) {
  switch (arg.kind) {
    case TITAN_NONE:
      return c10::IValue();
    case TITAN_TENSOR:
      return *static_cast<const at::Tensor*>(arg.pointer);
    case TITAN_INT:
      if (takes_double(declared.type())) return static_cast<double>(arg.integer);
      return arg.integer;
    case TITAN_DOUBLE:
      return arg.real;
    case TITAN_BOOL:
      return arg.integer != 0;
    case TITAN_INTS:
      return c10::IntArrayRef(static_cast<const int64_t*>(arg.pointer), arg.count);
    case TITAN_DOUBLES: {
      c10::ArrayRef<double> reals(static_cast<const double*>(arg.pointer), arg.count);
      if (takes_scalars(declared.type())) return c10::List<at::Scalar>(std::vector<at::Scalar>(reals.begin(), reals.end()));
      return reals;
    }
    case TITAN_TENSORS:
      return tensors<at::Tensor>(arg);
    case TITAN_OPTIONAL_TENSORS:
      return tensors<std::optional<at::Tensor>>(arg);
    case TITAN_STRING:
      return std::string(static_cast<const char*>(arg.pointer));
    case TITAN_DEVICE:
      return c10::Device(
          static_cast<c10::DeviceType>(arg.device_type), static_cast<c10::DeviceIndex>(arg.integer));
    default:
      TORCH_CHECK(false, "argument ", declared.name(), " is of the unknown kind ", arg.kind);
  }
}

void emit(const c10::IValue& value, void* sink, titan_result take) {
  if (value.isTensor()) {
    const auto& tensor = value.toTensor();
    if (tensor.defined()) return take(sink, TITAN_TENSOR, new at::Tensor(tensor), 0, 0);
    return take(sink, TITAN_NONE, nullptr, 0, 0);
  }
  if (value.isNone()) return take(sink, TITAN_NONE, nullptr, 0, 0);
  if (value.isInt()) return take(sink, TITAN_INT, nullptr, value.toInt(), 0);
  if (value.isSymInt()) return take(sink, TITAN_INT, nullptr, value.toSymInt().guard_int(__FILE__, __LINE__), 0);
  if (value.isDouble()) return take(sink, TITAN_DOUBLE, nullptr, 0, value.toDouble());
  if (value.isBool()) return take(sink, TITAN_BOOL, nullptr, value.toBool(), 0);
  if (value.isTensorList()) {
    auto list = value.toTensorVector();
    take(sink, TITAN_TENSORS, nullptr, static_cast<int64_t>(list.size()), 0);
    for (const auto& tensor : list) emit(tensor, sink, take);
    return;
  }
  TORCH_CHECK(false, "gives a ", value.tagKind(), ", which this call cannot hand out");
}

}  // namespace

extern "C" {

char* titan_call_operator(
    const char* name, const char* overload, const TitanArg* args, size_t count, void* sink, titan_result take) {
  TITAN_TRY(
      auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
      const auto& declared = op.schema().arguments();
      TORCH_CHECK(count <= declared.size(), "takes ", declared.size(), " arguments, got ", count);
      torch::jit::Stack stack;
      for (size_t i = 0; i < declared.size(); i++) {
        if (i < count && args[i].kind != TITAN_DEFAULT) {
          stack.push_back(value(args[i], declared[i]));
        } else {
          TORCH_CHECK(declared[i].default_value(), "argument ", declared[i].name(), " has no default; give it");
          stack.push_back(*declared[i].default_value());
        }
      }
      op.schema().checkAndNormalizeInputs(stack, {});
      op.callBoxed(stack);
      for (const auto& result : stack) emit(result, sink, take))
}

// Writes null where there is no such operator; else text that the caller frees.
char* titan_schema(const char* name, const char* overload, char** out) {
  TITAN_TRY(
      auto op = c10::Dispatcher::singleton().findSchema({name, overload});
      *out = nullptr;
      if (op) {
        std::ostringstream text;
        text << op->schema();
        *out = strdup(text.str().c_str());
      })
}

}  // extern "C"
