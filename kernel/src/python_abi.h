// The part of Python's stable interface (PEP 384, CPython 3.11 and later) that `calls.cpp` needs. Python keeps these
// declarations unchanged in all later versions, so that one library serves each of them.
// tests/kernel/test_python_abi.py compares them with Python's own header, where that is installed.
//
// With these declarations the build needs a compiler only, and the same sources serve each architecture.
#pragma once

#include <cstddef>
#include <utility>

extern "C" {

using Py_ssize_t = std::ptrdiff_t;
struct PyTypeObject;
struct PyObject {
  Py_ssize_t ob_refcnt;
  PyTypeObject* ob_type;
};

using PyCFunction = PyObject* (*)(PyObject*, PyObject*);
using PyCFunctionWithKeywords = PyObject* (*)(PyObject*, PyObject*, PyObject*);
using visitproc = int (*)(PyObject*, void*);
using allocfunc = PyObject* (*)(PyTypeObject*, Py_ssize_t);
using PySendResult = int;  // an enumeration

struct PyMethodDef {
  const char* ml_name;
  PyCFunction ml_meth;
  int ml_flags;
  const char* ml_doc;
};
struct PyGetSetDef {
  const char* name;
  PyObject* (*get)(PyObject*, void*);
  int (*set)(PyObject*, PyObject*, void*);
  const char* doc;
  void* closure;
};
struct PyType_Slot {
  int slot;
  void* pfunc;
};
struct PyType_Spec {
  const char* name;
  int basicsize, itemsize;
  unsigned int flags;
  PyType_Slot* slots;
};
struct PyModuleDef {
  PyObject head;
  PyObject* (*m_init)();
  Py_ssize_t m_index;
  PyObject* m_copy;
  const char* m_name;
  const char* m_doc;
  Py_ssize_t m_size;
  PyMethodDef* m_methods;
  void* m_slots;
  void *m_traverse, *m_clear, *m_free;
};

void Py_IncRef(PyObject*);
void Py_DecRef(PyObject*);
PyObject* PyObject_GetAttr(PyObject*, PyObject*);
PyObject* PyObject_GetAttrString(PyObject*, const char*);
PyObject* PyObject_GetItem(PyObject*, PyObject*);
PyObject* PyObject_Call(PyObject*, PyObject*, PyObject*);
PyObject* PyObject_CallNoArgs(PyObject*);
PyObject* PyObject_CallObject(PyObject*, PyObject*);
PyObject* PyObject_CallFunctionObjArgs(PyObject*, ...);
PyObject* PyObject_CallMethodObjArgs(PyObject*, PyObject*, ...);
int PyObject_RichCompareBool(PyObject*, PyObject*, int);
int PyObject_IsTrue(PyObject*);
Py_ssize_t PyObject_Size(PyObject*);
PySendResult PyIter_Send(PyObject*, PyObject*, PyObject**);
PyObject* PyUnicode_InternFromString(const char*);
int PyBytes_AsStringAndSize(PyObject*, char**, Py_ssize_t*);
PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t);
PyObject* PyDict_New();
PyObject* PyDict_Copy(PyObject*);
int PyDict_SetItem(PyObject*, PyObject*, PyObject*);
PyObject* PyDict_GetItemWithError(PyObject*, PyObject*);
PyObject* PyTuple_Pack(Py_ssize_t, ...);
PyObject* PyTuple_GetItem(PyObject*, Py_ssize_t);
Py_ssize_t PyTuple_Size(PyObject*);
PyObject* PyList_New(Py_ssize_t);
int PyList_Append(PyObject*, PyObject*);
PyObject* PyList_GetItem(PyObject*, Py_ssize_t);
Py_ssize_t PyList_Size(PyObject*);
PyObject* PyLong_FromLongLong(long long);
Py_ssize_t PyLong_AsSsize_t(PyObject*);
PyObject* PyBool_FromLong(long);
int PyArg_ParseTuple(PyObject*, const char*, ...);
PyObject* Py_BuildValue(const char*, ...);
PyObject* PyErr_Occurred();
void PyErr_Clear();
void PyErr_Fetch(PyObject**, PyObject**, PyObject**);
void PyErr_NormalizeException(PyObject**, PyObject**, PyObject**);
void PyErr_SetString(PyObject*, const char*);
void PyErr_SetObject(PyObject*, PyObject*);
void PyErr_SetNone(PyObject*);
int PyErr_ExceptionMatches(PyObject*);
void PyErr_WriteUnraisable(PyObject*);
PyObject* PyType_FromSpec(PyType_Spec*);
void* PyType_GetSlot(PyTypeObject*, int);
unsigned long PyType_GetFlags(PyTypeObject*);
void PyObject_GC_UnTrack(void*);
void PyObject_GC_Del(void*);
PyObject* PyModule_Create2(PyModuleDef*, int);
int PyModule_AddObjectRef(PyObject*, const char*, PyObject*);
int PyModule_AddIntConstant(PyObject*, const char*, long);
PyObject* PyImport_ImportModule(const char*);

extern PyObject _Py_NoneStruct, _Py_FalseStruct, _Py_TrueStruct;
extern PyObject *PyExc_OSError, *PyExc_RuntimeError, *PyExc_StopIteration, *PyExc_AttributeError;

}  // extern "C"

namespace python {

constexpr int kEqual = 2;                             // Py_EQ
constexpr PySendResult kReturn = 0, kError = -1, kNext = 1;
constexpr int kVarArgs = 1, kKeywords = 2, kNoArgs = 4, kOneArg = 8;
constexpr unsigned kGarbageCollected = 1u << 14, kNoInstances = 1u << 7;
constexpr unsigned long kList = 1ul << 25, kTuple = 1ul << 26, kBytes = 1ul << 27, kDict = 1ul << 29, kException = 1ul << 30;
constexpr int kDealloc = 52, kTraverse = 71, kClear = 51, kInit = 60, kCall = 50, kIter = 62, kIterNext = 63;
constexpr int kMethods = 64, kGetSet = 73, kAlloc = 47, kAwait = 77, kAmSend = 81;
constexpr int kApi = 3;  // PYTHON_ABI_VERSION

inline PyObject* None() { return &_Py_NoneStruct; }
inline bool Is(PyObject* object, unsigned long flag) { return PyType_GetFlags(object->ob_type) & flag; }

// An owned reference, or null.
class Ref {
 public:
  Ref() = default;
  explicit Ref(PyObject* owned) : object_(owned) {}
  Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  Ref& operator=(Ref&& other) noexcept {
    PyObject* old = std::exchange(object_, std::exchange(other.object_, nullptr));
    Py_DecRef(old);
    return *this;
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_DecRef(object_); }
  static Ref Borrowed(PyObject* object) {
    Py_IncRef(object);
    return Ref(object);
  }
  PyObject* get() const { return object_; }
  PyObject* release() { return std::exchange(object_, nullptr); }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  PyObject* object_ = nullptr;
};

}  // namespace python
