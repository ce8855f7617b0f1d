// The part of onnxruntime's C interface that a custom operator on the CPU needs, with functions of interface version 17
// (onnxruntime 1.17). onnxruntime only appends functions to its table, so that a number here is the same in any later
// version. tests/kernel/test_python_abi.py compares the numbers with onnxruntime's header, where that is installed.
//
// With these declarations the build needs a compiler only: no download, and the same sources for each architecture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ort {

constexpr uint32_t kVersion = 17;

// Opaque objects of the runtime.
struct Status;
struct Value;
struct Info;     // OrtKernelInfo: attributes and constants of a node
struct Context;  // OrtKernelContext: inputs and outputs of one run
struct Shape;    // OrtTensorTypeAndShapeInfo
struct Domain;
struct SessionOptions;

using Api = void* const;  // the table of functions; an element is a function pointer

struct ApiBase {
  Api* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

constexpr int kFloat = 1;                       // ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
constexpr int kRequired = 0, kOptional = 1;     // OrtCustomOpInputOutputCharacteristic
constexpr int kDefaultMemory = 0;               // OrtMemTypeDefault
constexpr int kFail = 1, kInvalidArgument = 2;  // OrtErrorCode

// OrtCustomOp, the description of an operator. A null function has the runtime's default.
struct CustomOp {
  uint32_t version = kVersion;
  void* (*create_kernel)(const CustomOp*, Api*, const Info*) = nullptr;
  const char* (*name)(const CustomOp*) = nullptr;
  const char* (*provider)(const CustomOp*) = nullptr;
  int (*input_type)(const CustomOp*, size_t) = nullptr;
  size_t (*input_count)(const CustomOp*) = nullptr;
  int (*output_type)(const CustomOp*, size_t) = nullptr;
  size_t (*output_count)(const CustomOp*) = nullptr;
  void (*compute)(void*, Context*) = nullptr;
  void (*destroy)(void*) = nullptr;
  int (*input_characteristic)(const CustomOp*, size_t) = nullptr;
  int (*output_characteristic)(const CustomOp*, size_t) = nullptr;
  int (*input_memory)(const CustomOp*, size_t) = nullptr;
  int (*variadic_input_least)(const CustomOp*) = nullptr;
  int (*variadic_input_same)(const CustomOp*) = nullptr;
  int (*variadic_output_least)(const CustomOp*) = nullptr;
  int (*variadic_output_same)(const CustomOp*) = nullptr;
  Status* (*create_kernel_v2)(const CustomOp*, Api*, const Info*, void** kernel) = nullptr;
  Status* (*compute_v2)(void*, Context*) = nullptr;
  Status* (*infer_shape)(const CustomOp*, void*) = nullptr;
  int (*first_version)(const CustomOp*) = nullptr;
  int (*last_version)(const CustomOp*) = nullptr;
  size_t (*may_inplace)(int**, int**) = nullptr;
  void (*release_may_inplace)(int*, int*) = nullptr;
  size_t (*alias_map)(int**, int**) = nullptr;
  void (*release_alias_map)(int*, int*) = nullptr;
};

// Positions in the table. The names are the runtime's.
enum Slot : size_t {
  CreateStatus = 0,
  GetErrorMessage = 2,
  CreateCustomOpDomain = 26,
  CustomOpDomain_Add = 27,
  AddCustomOpDomain = 28,
  GetTensorMutableData = 51,
  GetTensorElementType = 60,
  GetDimensionsCount = 61,
  GetDimensions = 62,
  GetTensorTypeAndShape = 65,
  KernelInfoGetAttribute_float = 85,
  KernelInfoGetAttribute_int64 = 86,
  KernelInfoGetAttribute_string = 87,
  KernelContext_GetInput = 90,
  KernelContext_GetOutput = 91,
  ReleaseStatus = 93,
  ReleaseTensorTypeAndShapeInfo = 99,
  ReleaseCustomOpDomain = 101,
  KernelInfoGetConstantInput_tensor = 249,
  KernelContext_ParallelFor = 274,
};

// The table of this process, set once by RegisterCustomOps.
inline Api* table = nullptr;

template <typename... Arguments>
Status* call(Slot slot, Arguments... arguments) {
  return reinterpret_cast<Status* (*)(Arguments...)>(table[slot])(arguments...);
}

template <typename Object>
void release(Slot slot, Object* object) {
  reinterpret_cast<void (*)(Object*)>(table[slot])(object);
}

inline Status* status(int code, const char* message) { return call<int, const char*>(CreateStatus, code, message); }

// Throws std::runtime_error with the message of a status that is an error.
inline void check(Status* result) {
  if (!result) return;
  const std::string message = reinterpret_cast<const char* (*)(const Status*)>(table[GetErrorMessage])(result);
  release(ReleaseStatus, result);
  throw std::runtime_error(message);
}

// A matrix of float32; `data` stays the runtime's.
struct Matrix {
  const float* data;
  int64_t rows, columns;
};

// Throws std::invalid_argument for any other tensor.
inline Matrix matrix(const Value* value, const std::string& name) {
  Shape* shape = nullptr;
  check(call<const Value*, Shape**>(GetTensorTypeAndShape, value, &shape));
  int type = 0;
  size_t axes = 0;
  int64_t size[2] = {-1, -1};
  Status* error = call<const Shape*, int*>(GetTensorElementType, shape, &type);
  if (!error) error = call<const Shape*, size_t*>(GetDimensionsCount, shape, &axes);
  if (!error && axes == 2) error = call<const Shape*, int64_t*, size_t>(GetDimensions, shape, size, axes);
  release(ReleaseTensorTypeAndShapeInfo, shape);
  check(error);
  if (type != kFloat || axes != 2 || size[0] < 0 || size[1] < 0)
    throw std::invalid_argument(name + " is not a matrix of float32");
  void* data = nullptr;
  check(call<Value*, void**>(GetTensorMutableData, const_cast<Value*>(value), &data));
  return {static_cast<const float*>(data), size[0], size[1]};
}

// Throws std::invalid_argument if the input is not a constant matrix.
inline Matrix constant(const Info* info, size_t at, const std::string& name) {
  int is_constant = 0;
  const Value* value = nullptr;
  check(call<const Info*, size_t, int*, const Value**>(KernelInfoGetConstantInput_tensor, info, at, &is_constant, &value));
  if (!is_constant) throw std::invalid_argument(name + " is not a constant");
  return matrix(value, name);
}

inline int64_t integer(const Info* info, const char* name) {
  int64_t value = 0;
  check(call<const Info*, const char*, int64_t*>(KernelInfoGetAttribute_int64, info, name, &value));
  return value;
}

inline float number(const Info* info, const char* name) {
  float value = 0;
  check(call<const Info*, const char*, float*>(KernelInfoGetAttribute_float, info, name, &value));
  return value;
}

inline std::string text(const Info* info, const char* name) {
  size_t size = 0;
  check(call<const Info*, const char*, char*, size_t*>(KernelInfoGetAttribute_string, info, name, nullptr, &size));
  std::string value(size, '\0');
  check(call<const Info*, const char*, char*, size_t*>(KernelInfoGetAttribute_string, info, name, value.data(), &size));
  value.resize(size ? size - 1 : 0);  // the size counts the terminating zero
  return value;
}

inline Matrix input(const Context* context, size_t at, const std::string& name) {
  const Value* value = nullptr;
  check(call<const Context*, size_t, const Value**>(KernelContext_GetInput, context, at, &value));
  if (!value) throw std::invalid_argument(name + " is missing");
  return matrix(value, name);
}

inline float* output(Context* context, size_t at, int64_t rows, int64_t columns) {
  const int64_t shape[] = {rows, columns};
  Value* value = nullptr;
  void* data = nullptr;
  check(call<Context*, size_t, const int64_t*, size_t, Value**>(KernelContext_GetOutput, context, at, shape, 2, &value));
  check(call<Value*, void**>(GetTensorMutableData, value, &data));
  return static_cast<float*>(data);
}

// Runs `part` for 0 to parts - 1 on the threads of the session.
inline void parallel(Context* context, size_t parts, void (*part)(void*, size_t), void* argument) {
  check(call<const Context*, void (*)(void*, size_t), size_t, size_t, void*>(KernelContext_ParallelFor, context, part, parts,
                                                                             0, argument));
}

}  // namespace ort
