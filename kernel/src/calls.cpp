// Unary gRPC calls of an ASGI application without a task of asyncio: calls of a known caller whose message has a known
// head. docs/contributing/request-path.md shows the whole path.
//
//   Queue        waiting calls with one known head; Python runs them as one batch (take, deliver, wake)
//   Call         one request of the application; `start` makes a future of it, which is complete after its response
//   Application  ASGI application that makes a Call
//   start        task factory of the event loop
//
// A task of asyncio costs more than the rest of such a call. So `start` itself receives the message, when the transport
// makes the task, and the queue itself sends the responses. Any other call (its caller or its head is unknown, its body
// has not arrived, its client reads slowly) continues in a task of asyncio, with the coroutine that Python's `resume`
// makes. The regular path in Python returns the same bytes, and the tests of `kanserve.transport.asgi` run with both.
//
// Sources: ASGI 3.0; "gRPC over HTTP2"; Protocol Buffers, "Encoding"; Python, "asyncio.loop.set_task_factory" and
// "asyncio.Future" (the methods and the attribute _asyncio_future_blocking that tasks and transports use of a future).
#include <time.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "python_abi.h"

namespace {

using python::Ref;

struct Names {
  PyObject *path, *headers, *method, *version, *post, *two, *await, *raise, *close, *type, *body, *more, *request,
      *response_body, *context, *call_soon, *loop, *eager_start, *add_done_callback, *cancel, *cancelled_method,
      *exception, *adopt, *respond, *extensions, *tls, *chain, *empty, *zero;
  PyObject *cancelled, *invalid;  // asyncio.CancelledError, asyncio.InvalidStateError
  PyObject* task;                 // asyncio.Task
  bool eager;                     // whether it can start at once, from Python 3.12
  PyTypeObject* call;
} g;

constexpr long kVersion = 3;          // of the functions and stages below, which Python's part checks
constexpr Py_ssize_t kPrefix = 5;     // bytes of a gRPC frame before its message
constexpr char kIdTag = 3 << 3 | 2;   // of the field `id`, in a ModelInferRequest and in a ModelInferResponse
constexpr Py_ssize_t kLongestId = 127;  // of which the length takes one byte

void Set(PyObject*& slot, PyObject* owned) { Py_DecRef(std::exchange(slot, owned)); }

PyObject* Increased(PyObject* object) {
  Py_IncRef(object);
  return object;
}

PyObject* Given(PyObject* object) { return object != nullptr ? object : python::None(); }

// CLOCK_MONOTONIC is time.monotonic and time.perf_counter_ns on Linux.
long long Now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

struct Bytes {
  char* data = nullptr;
  Py_ssize_t size = 0;
  // Whether `object` is bytes, which stay with their owner.
  bool of(PyObject* object) {
    return object != nullptr && python::Is(object, python::kBytes) && PyBytes_AsStringAndSize(object, &data, &size) == 0;
  }
};

void PutLength(char* target, Py_ssize_t length) {
  target[0] = 0;  // not compressed
  for (int at = 0; at < 4; ++at) target[1 + at] = static_cast<char>(length >> (24 - 8 * at));
}

struct Head {
  PyObject *lead, *rest;     // bytes of a message before and after the id
  PyObject *before, *after;  // bytes of a response before and after the id; the output follows
};

struct Queue {
  PyObject base;
  PyObject *open, *run;
  Head head;
  PyObject* waiting;  // list of calls
  Py_ssize_t size;    // bytes of the input
  Py_ssize_t room;    // requests of this batch; negative: each runs at once
};

// A caller is a tuple: principal, function that takes a call from its rate limit (or None), end of its validity in
// nanoseconds since the epoch (0: none). The key is its header `authorization`, or else its certificate, or else None.
struct Application {
  PyObject base;
  PyObject *path, *regular, *resume, *start, *end;
  PyObject* callers;  // dict
  PyObject* queues;   // list, the last used first
  PyObject* sampled;  // function that decides whether a call is traced, by its header `traceparent`; None: tracing is off
  Py_ssize_t limit;   // bytes of a message
  Py_ssize_t small;   // bytes of a response that is sent at once
  int keyed, certified;  // whether callers need a credential, and whether a certificate is one
};

enum class State : char { kNew, kWaiting, kMoved, kDone };

struct Call {
  PyObject base;
  Application* app;
  PyObject *scope, *receive, *send;
  PyObject* inner;    // from the state kMoved on: the task that has the rest of the call; before: a coroutine or null
  PyObject* events;   // of the request, a tuple
  PyObject* loop;     // of a future
  PyObject* watchers;  // callbacks of a future and their contexts, alternating, in a list; null: none
  PyObject *raw, *id, *frame;
  PyObject *caller, *request_id, *trace;  // tuple of a known caller or null; headers, or null
  PyObject* error;  // that ended it, or null
  long long arrived, deadline;  // nanoseconds of the monotonic clock; 0: no deadline
  Py_ssize_t bytes;
  State state;
  bool starting, blocking, cancelled;
};

template <typename T>
T* As(PyObject* object) {
  return reinterpret_cast<T*>(object);
}
template <typename T>
PyObject* Object(T* object) {
  return reinterpret_cast<PyObject*>(object);
}

PyObject* New(PyTypeObject* type) { return reinterpret_cast<allocfunc>(PyType_GetSlot(type, python::kAlloc))(type, 0); }

template <int (*Clear)(PyObject*)>
void Free(PyObject* self) {
  PyTypeObject* type = self->ob_type;
  PyObject_GC_UnTrack(self);
  Clear(self);
  PyObject_GC_Del(self);
  Py_DecRef(Object(type));
}

template <typename... Members>
int Visit(PyObject* self, visitproc visit, void* argument, Members*... members) {
  for (PyObject* member : {Object(self->ob_type), Object(members)...})
    if (member != nullptr)
      if (int stop = visit(member, argument)) return stop;
  return 0;
}

// --- Queue -----------------------------------------------------------------------------------------------------------

// Queue(open, run, lead, rest, before, after, size)
int InitQueue(PyObject* self, PyObject* arguments, PyObject*) {
  Queue* queue = As<Queue>(self);
  PyObject *open, *run, *lead, *rest, *before, *after;
  if (!PyArg_ParseTuple(arguments, "OOSSSSn", &open, &run, &lead, &rest, &before, &after, &queue->size)) return -1;
  PyObject** slots[] = {&queue->open,      &queue->run,         &queue->head.lead,
                        &queue->head.rest, &queue->head.before, &queue->head.after};
  PyObject* values[] = {open, run, lead, rest, before, after};
  for (int at = 0; at < 6; ++at) Set(*slots[at], Increased(values[at]));
  Set(queue->waiting, PyList_New(0));
  return queue->waiting == nullptr ? -1 : 0;
}

struct Match {
  const char *input, *id;
  Py_ssize_t id_size;
};

// Whether a body is one frame of a message with this head.
bool Matches(const Queue* queue, const Bytes& body, Match* match) {
  Bytes lead, rest;
  if (!lead.of(queue->head.lead) || !rest.of(queue->head.rest)) return false;
  if (body.size < kPrefix + lead.size + rest.size + queue->size) return false;
  const char* id = body.data + kPrefix + lead.size;
  const char* input = body.data + body.size - queue->size;
  const char* tail = input - rest.size;
  if (std::memcmp(body.data + kPrefix, lead.data, lead.size) != 0 || std::memcmp(tail, rest.data, rest.size) != 0)
    return false;
  *match = {input, nullptr, 0};
  if (tail == id) return true;
  const Py_ssize_t size = tail - id - 2;
  if (size < 0 || size > kLongestId || id[0] != kIdTag || id[1] != size) return false;
  for (Py_ssize_t at = 0; at < size; ++at)
    if (id[2 + at] & 0x80) return false;  // not ASCII: Python checks whether it is UTF-8
  match->id = id + 2;
  match->id_size = size;
  return true;
}

// Whether the rate limit of the caller admits a call that tracing does not sample.
bool Admitted(const Call* call) {
  if (call->app->sampled != python::None()) {
    Ref sampled(PyObject_CallFunctionObjArgs(call->app->sampled, Given(call->trace), nullptr));
    if (!sampled || sampled.get() != &_Py_FalseStruct) return false;
  }
  PyObject* take = PyTuple_GetItem(call->caller, 1);
  return take != nullptr && (take == python::None() || Ref(PyObject_CallNoArgs(take)));
}

// Adds a call to the waiting ones, and runs them if it is the last of its batch. False: no room, or an error.
bool Join(Queue* queue, Call* call, const Match& match, Py_ssize_t bytes) {
  const Py_ssize_t count = PyList_Size(queue->waiting);
  if (count == 0) {
    Ref room(PyObject_CallFunctionObjArgs(queue->open, Object(queue), nullptr));
    if (!room) return false;
    queue->room = PyLong_AsSsize_t(room.get());
    if (PyErr_Occurred()) return false;
  }
  const Py_ssize_t most = queue->room < 0 ? 1 : queue->room;
  if (count >= most) return false;
  call->bytes = bytes;
  Set(call->raw, PyBytes_FromStringAndSize(match.input, queue->size));
  if (match.id != nullptr) Set(call->id, PyBytes_FromStringAndSize(match.id, match.id_size));
  if (call->raw == nullptr || (match.id != nullptr && call->id == nullptr)) return false;
  if (!Admitted(call)) {
    PyErr_Clear();  // the regular path rejects it, with its error
    return false;
  }
  if (PyList_Append(queue->waiting, Object(call)) < 0) return false;
  call->state = State::kWaiting;
  if (queue->room < 0 || count + 1 == most) {
    Ref done(PyObject_CallFunctionObjArgs(queue->run, Object(queue), nullptr));
    if (!done) return false;
  }
  return true;
}

// The framed response to one request.
PyObject* Framed(const Head& head, const Call* call, const char* output, Py_ssize_t size) {
  Bytes before, after, id;
  if (!before.of(head.before) || !after.of(head.after)) return nullptr;
  const bool named = id.of(call->id);
  const Py_ssize_t length = before.size + (named ? id.size + 2 : 0) + after.size + size;
  Ref frame(PyBytes_FromStringAndSize(nullptr, kPrefix + length));
  Bytes target;
  if (!frame || !target.of(frame.get())) return nullptr;
  PutLength(target.data, length);
  char* at = target.data + kPrefix;
  std::memcpy(at, before.data, before.size);
  at += before.size;
  if (named) {
    *at++ = kIdTag;
    *at++ = static_cast<char>(id.size);
    std::memcpy(at, id.data, id.size);
    at += id.size;
  }
  std::memcpy(at, after.data, after.size);
  std::memcpy(at + after.size, output, size);
  return frame.release();
}

// deliver(batch, outputs): encodes the response of each call, with its rows of `outputs`.
PyObject* Deliver(PyObject* self, PyObject* arguments) {
  Queue* queue = As<Queue>(self);
  PyObject *batch, *outputs;
  if (!PyArg_ParseTuple(arguments, "OS", &batch, &outputs)) return nullptr;
  const Py_ssize_t count = PyList_Size(batch);
  Bytes rows;
  if (count <= 0 || !rows.of(outputs)) return nullptr;
  const Py_ssize_t size = rows.size / count;
  for (Py_ssize_t at = 0; at < count; ++at) {
    Call* call = As<Call>(PyList_GetItem(batch, at));
    Set(call->frame, Framed(queue->head, call, rows.data + at * size, size));
    if (call->frame == nullptr) return nullptr;
  }
  return Increased(python::None());
}

int VisitQueue(PyObject* self, visitproc visit, void* argument) {
  Queue* queue = As<Queue>(self);
  return Visit(self, visit, argument, queue->open, queue->run, queue->waiting);
}

int ClearQueue(PyObject* self) {
  Queue* queue = As<Queue>(self);
  for (PyObject** slot : {&queue->open, &queue->run, &queue->waiting, &queue->head.lead,
                          &queue->head.rest, &queue->head.before, &queue->head.after})
    Set(*slot, nullptr);
  return 0;
}

// --- Call: a future --------------------------------------------------------------------------------------------------

// loop.call_soon(function[, argument][, context=context]); without a context if it is None.
bool CallSoon(PyObject* loop, PyObject* function, PyObject* argument, PyObject* context) {
  Ref method(PyObject_GetAttr(loop, g.call_soon)), named;
  Ref positional(argument != nullptr ? PyTuple_Pack(2, function, argument) : PyTuple_Pack(1, function));
  if (context != python::None()) {
    named = Ref(PyDict_New());
    if (!named || PyDict_SetItem(named.get(), g.context, context) < 0) return false;
  }
  return method && positional && Ref(PyObject_Call(method.get(), positional.get(), named.get()));
}

// The call ends. `now`: its watchers without a context may run at once, because no other code of the loop runs.
void Complete(Call* call, bool now) {
  if (call->state == State::kDone) return;
  call->state = State::kDone;
  Ref watchers(std::exchange(call->watchers, nullptr)), kept = Ref::Borrowed(Object(call));
  for (Py_ssize_t at = 0, count = watchers ? PyList_Size(watchers.get()) : 0; at + 1 < count; at += 2) {
    PyObject* callback = PyList_GetItem(watchers.get(), at);
    PyObject* context = PyList_GetItem(watchers.get(), at + 1);
    const bool told = now && context == python::None()
                          ? static_cast<bool>(Ref(PyObject_CallFunctionObjArgs(callback, kept.get(), nullptr)))
                          : CallSoon(call->loop, callback, kept.get(), context);
    if (!told) PyErr_WriteUnraisable(callback);
  }
}

// The call ends with the current exception.
void Fail(Call* call, bool now) {
  PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  Ref kind(type), trace(traceback);
  Set(call->error, value);
  Complete(call, now);
}

PyObject* AddDoneCallback(PyObject* self, PyObject* arguments, PyObject* named) {
  Call* call = As<Call>(self);
  PyObject* callback = PyTuple_GetItem(arguments, 0);
  if (callback == nullptr) return nullptr;
  PyObject* context = named != nullptr ? PyDict_GetItemWithError(named, g.context) : nullptr;
  if (context == nullptr) context = python::None();
  if (call->state == State::kDone)
    return CallSoon(call->loop, callback, self, context) ? Increased(python::None()) : nullptr;
  if (call->watchers == nullptr) call->watchers = PyList_New(0);
  if (call->watchers == nullptr || PyList_Append(call->watchers, callback) < 0 ||
      PyList_Append(call->watchers, context) < 0)
    return nullptr;
  return Increased(python::None());
}

PyObject* RemoveDoneCallback(PyObject* self, PyObject* callback) {
  Call* call = As<Call>(self);
  Ref left(PyList_New(0));
  long removed = 0;
  const Py_ssize_t count = call->watchers != nullptr ? PyList_Size(call->watchers) : 0;
  for (Py_ssize_t at = 0; left && at + 1 < count; at += 2) {
    const int same = PyObject_RichCompareBool(PyList_GetItem(call->watchers, at), callback, python::kEqual);
    if (same < 0) return nullptr;
    removed += same;
    for (Py_ssize_t item = at; same == 0 && item < at + 2; ++item)
      if (PyList_Append(left.get(), PyList_GetItem(call->watchers, item)) < 0) return nullptr;
  }
  if (!left) return nullptr;
  if (count > 0) Set(call->watchers, left.release());
  return PyLong_FromLongLong(removed);
}

// Its request is not computed if it still waits.
PyObject* Cancel(PyObject* self, PyObject*, PyObject*) {
  Call* call = As<Call>(self);
  if (call->state == State::kMoved) return PyObject_CallMethodObjArgs(call->inner, g.cancel, nullptr);
  const bool open = call->state == State::kWaiting;
  if (open) {
    call->cancelled = true;
    Complete(call, false);
  }
  return PyBool_FromLong(open);
}

PyObject* IsDone(PyObject* self, PyObject*) { return PyBool_FromLong(As<Call>(self)->state == State::kDone); }

PyObject* IsCancelled(PyObject* self, PyObject*) { return PyBool_FromLong(As<Call>(self)->cancelled); }

PyObject* Exception(PyObject* self, PyObject*) {
  Call* call = As<Call>(self);
  if (call->state == State::kDone && !call->cancelled)
    return Increased(Given(call->error));
  PyErr_SetNone(call->cancelled ? g.cancelled : g.invalid);
  return nullptr;
}

PyObject* Result(PyObject* self, PyObject*) {
  Ref error(Exception(self, nullptr));
  if (!error || error.get() == python::None()) return error.release();
  PyErr_SetObject(Object(error.get()->ob_type), error.get());
  return nullptr;
}

PyObject* GetLoop(PyObject* self, PyObject*) {
  PyObject* loop = As<Call>(self)->loop;
  return Increased(Given(loop));
}

// asyncio names each task that a factory makes; no message shows the name of a call.
PyObject* SetName(PyObject*, PyObject*) { return Increased(python::None()); }

// facts() -> (arrived, deadline, bytes, id, request_id, trace, principal, response): what counts and log lines need.
// `deadline` is 0 without one, `response` the bytes of the response.
PyObject* Facts(PyObject* self, PyObject*) {
  Call* call = As<Call>(self);
  Bytes frame;
  const Py_ssize_t size = frame.of(call->frame) ? frame.size - kPrefix : 0;
  return Py_BuildValue("LLnOOOOn", call->arrived, call->deadline, call->bytes, call->id != nullptr ? call->id : g.empty,
                       Given(call->request_id), Given(call->trace), PyTuple_GetItem(call->caller, 0), size);
}

PyObject* GetBlocking(PyObject* self, void*) { return PyBool_FromLong(As<Call>(self)->blocking); }

int SetBlocking(PyObject* self, PyObject* value, void*) {
  As<Call>(self)->blocking = value != nullptr && PyObject_IsTrue(value) > 0;
  return 0;
}

// --- Call: its steps -------------------------------------------------------------------------------------------------

enum class Step { kReady, kLater, kFailed };

// Await what a call of `receive` or `send` has returned. kLater: `iterator` has yielded `value`.
Step Await(Ref awaitable, Ref* iterator, Ref* value) {
  *iterator = Ref(awaitable ? PyObject_CallMethodObjArgs(awaitable.get(), g.await, nullptr) : nullptr);
  if (!*iterator) return Step::kFailed;
  PyObject* object = nullptr;
  const PySendResult outcome = PyIter_Send(iterator->get(), python::None(), &object);
  *value = Ref(object);
  return outcome == python::kReturn ? Step::kReady : outcome == python::kNext ? Step::kLater : Step::kFailed;
}

// A task of asyncio. `eager`: it may start at once, as the transport would start it.
PyObject* Task(PyObject* loop, Ref coroutine, PyObject* options, bool eager) {
  Ref named(options != nullptr ? PyDict_Copy(options) : PyDict_New());
  if (!coroutine || !named || PyDict_SetItem(named.get(), g.loop, loop) < 0) return nullptr;
  if (eager && g.eager && PyDict_SetItem(named.get(), g.eager_start, &_Py_TrueStruct) < 0) return nullptr;
  Ref positional(PyTuple_Pack(1, coroutine.get()));
  return positional ? PyObject_Call(g.task, positional.get(), named.get()) : nullptr;
}

// The coroutine of Python that goes on from this stage. `iterator` has yielded `yielded` and is to be awaited.
Ref Resumed(Call* call, const char* stage, const Ref& iterator = Ref(), const Ref& yielded = Ref()) {
  Ref name(PyUnicode_InternFromString(stage)), arrived(PyLong_FromLongLong(call->arrived));
  if (!name || !arrived) return Ref();
  return Ref(PyObject_CallFunctionObjArgs(call->app->resume, name.get(), call->scope, call->receive, call->send,
                                          arrived.get(), Given(call->events), Given(iterator.get()),
                                          Given(yielded.get()), nullptr));
}

// A future that has begun continues in a task.
void Move(Call* call, Ref coroutine, bool now) {
  Ref task(Task(call->loop, std::move(coroutine), nullptr, false));
  Ref adopt(task ? PyObject_GetAttr(Object(call), g.adopt) : nullptr);
  Ref added(adopt ? PyObject_CallMethodObjArgs(task.get(), g.add_done_callback, adopt.get(), nullptr) : nullptr);
  if (!added) return Fail(call, now);
  Set(call->inner, task.release());
  call->state = State::kMoved;
}

// adopt(task): ends as the task has ended.
PyObject* Adopt(PyObject* self, PyObject* task) {
  Call* call = As<Call>(self);
  Ref cancelled(PyObject_CallMethodObjArgs(task, g.cancelled_method, nullptr));
  if (!cancelled) return nullptr;
  call->cancelled = PyObject_IsTrue(cancelled.get()) > 0;
  if (!call->cancelled) {
    Ref error(PyObject_CallMethodObjArgs(task, g.exception, nullptr));
    if (!error) return nullptr;
    if (error.get() != python::None()) Set(call->error, error.release());
  }
  Complete(call, true);
  return Increased(python::None());
}

int Same(PyObject* scope, PyObject* key, PyObject* expected) {
  PyObject* value = PyDict_GetItemWithError(scope, key);
  if (value == nullptr) return PyErr_Occurred() ? -1 : 0;
  return value == expected ? 1 : PyObject_RichCompareBool(value, expected, python::kEqual);
}

bool More(PyObject* event) {
  PyObject* more = PyDict_GetItemWithError(event, g.more);
  return more != nullptr && more != &_Py_FalseStruct;
}

// Send the response of a call. `now`: as in Complete.
void Respond(Call* call, bool now) {
  Ref body(PyDict_New());
  Bytes bytes;
  if (!body || !bytes.of(call->frame)) return Fail(call, now);
  const bool large = bytes.size > call->app->small + kPrefix;
  Set(call->events, PyTuple_Pack(1, large ? call->frame : body.get()));
  if (call->events == nullptr) return Fail(call, now);
  if (large) return Move(call, Resumed(call, "large"), now);
  if (PyDict_SetItem(body.get(), g.type, g.response_body) < 0 || PyDict_SetItem(body.get(), g.body, call->frame) < 0 ||
      PyDict_SetItem(body.get(), g.more, &_Py_FalseStruct) < 0)
    return Fail(call, now);
  PyObject* events[] = {call->app->start, body.get(), call->app->end};
  static const char* const kStages[] = {"started", "sent", "ended"};
  for (int at = 0; at < 3; ++at) {
    Ref iterator, value;
    const Step step = Await(Ref(PyObject_CallFunctionObjArgs(call->send, events[at], nullptr)), &iterator, &value);
    if (step == Step::kReady) continue;
    if (step == Step::kLater) return Move(call, Resumed(call, kStages[at], iterator, value), now);
    if (!PyErr_ExceptionMatches(PyExc_OSError)) return Fail(call, now);
    PyErr_Clear();
    return Move(call, Resumed(call, "disconnected"), now);
  }
  Complete(call, now);
}

// respond(): in an iteration of the loop after its batch.
PyObject* RespondLater(PyObject* self, PyObject*) {
  Call* call = As<Call>(self);
  if (call->state == State::kWaiting && call->frame != nullptr) Respond(call, true);
  return Increased(python::None());
}

// wake(batch, now): sends the response of each call, now or in the next iteration of the loop. A call that is starting
// sends its own. Python's application handles a call without a response.
PyObject* WakeAll(PyObject*, PyObject* arguments) {
  PyObject* batch;
  int now;
  if (!PyArg_ParseTuple(arguments, "Op", &batch, &now)) return nullptr;
  for (Py_ssize_t at = 0, count = PyList_Size(batch); at < count; ++at) {
    Call* call = As<Call>(PyList_GetItem(batch, at));
    if (call->state != State::kWaiting) continue;
    if (call->frame == nullptr) {
      Move(call, Resumed(call, "begun"), false);
    } else if (now) {
      Respond(call, true);
    } else if (!call->starting) {
      Ref respond(PyObject_GetAttr(Object(call), g.respond));
      if (!respond || !CallSoon(call->loop, respond.get(), nullptr, python::None())) Fail(call, false);
    }
  }
  return Increased(python::None());
}

// take() -> (batch, inputs, arrived, bytes, abandoned): the waiting calls, the bytes of their inputs, their arrivals, the
// bytes of their messages, and the calls whose clients have disconnected. The regular path handles a call whose deadline
// has passed.
PyObject* Take(PyObject* self, PyObject*) {
  Queue* queue = As<Queue>(self);
  Ref empty(PyList_New(0)), batch(PyList_New(0)), arrivals(PyList_New(0)), abandoned(PyList_New(0));
  if (!empty || !batch || !arrivals || !abandoned) return nullptr;
  Py_ssize_t bytes = 0;
  Ref waiting(std::exchange(queue->waiting, empty.release()));
  const Py_ssize_t count = PyList_Size(waiting.get());
  const long long now = Now();
  for (Py_ssize_t at = 0; at < count; ++at) {
    PyObject* item = PyList_GetItem(waiting.get(), at);
    Call* call = As<Call>(item);
    if (call->state != State::kWaiting) {
      if (PyList_Append(abandoned.get(), item) < 0) return nullptr;
      continue;
    }
    if (call->deadline != 0 && now > call->deadline) {
      Move(call, Resumed(call, "begun"), false);
      continue;
    }
    Ref arrived(PyLong_FromLongLong(call->arrived));
    if (!arrived || PyList_Append(arrivals.get(), arrived.get()) < 0) return nullptr;
    if (PyList_Append(batch.get(), item) < 0) return nullptr;
    bytes += call->bytes;
  }
  const Py_ssize_t present = PyList_Size(batch.get());
  Ref inputs(PyBytes_FromStringAndSize(nullptr, present * queue->size));
  Bytes target;
  if (!inputs || !target.of(inputs.get())) return nullptr;
  for (Py_ssize_t at = 0; at < present; ++at) {
    Bytes raw;
    if (!raw.of(As<Call>(PyList_GetItem(batch.get(), at))->raw)) return nullptr;
    std::memcpy(target.data + at * queue->size, raw.data, raw.size);
  }
  return Py_BuildValue("OOOnO", batch.get(), inputs.get(), arrivals.get(), bytes, abandoned.get());
}

// The queue of the head of a body, or null.
Ref Known(Application* app, const Bytes& body, Match* match) {
  const unsigned char* length = reinterpret_cast<const unsigned char*>(body.data) + 1;
  if (body.size < kPrefix || body.data[0] != 0) return Ref();
  const size_t size = static_cast<size_t>(length[0]) << 24 | length[1] << 16 | length[2] << 8 | length[3];
  if (size + kPrefix != static_cast<size_t>(body.size) || body.size - kPrefix > app->limit) return Ref();
  for (Py_ssize_t at = 0, count = PyList_Size(app->queues); at < count; ++at) {
    Queue* queue = As<Queue>(PyList_GetItem(app->queues, at));
    if (Matches(queue, body, match)) return Ref::Borrowed(Object(queue));
  }
  return Ref();
}

// Whether the message of a call has arrived: `events` has it, and `body`. kLater: the call stops in `stage`.
Step Arrived(Call* call, const char** stage, Bytes* body, bool* whole, Ref* iterator, Ref* value) {
  *stage = "arriving";
  Step step = Await(Ref(PyObject_CallNoArgs(call->receive)), iterator, value);
  if (step != Step::kReady) return step;
  Ref first(std::move(*value));
  Set(call->events, PyTuple_Pack(1, first.get()));
  if (call->events == nullptr) return Step::kFailed;
  *whole = python::Is(first.get(), python::kDict) && body->of(PyDict_GetItemWithError(first.get(), g.body));
  if (!*whole || !More(first.get())) return Step::kReady;
  *stage = "ending";
  step = Await(Ref(PyObject_CallNoArgs(call->receive)), iterator, value);
  if (step != Step::kReady) return step;
  PyObject* last = value->get();
  Set(call->events, PyTuple_Pack(2, first.get(), last));
  if (call->events == nullptr || !python::Is(last, python::kDict)) return Step::kFailed;
  PyObject* rest = PyDict_GetItemWithError(last, g.body);
  *whole = Same(last, g.type, g.request) > 0 && !More(last) && (rest == nullptr || PyObject_Size(rest) == 0);
  return Step::kReady;
}

// A future for a call that can go on here, otherwise a task.
PyObject* Begin(Call* call, PyObject* options) {
  const char* stage;
  Bytes body;
  Match match;
  bool whole = false;
  Ref iterator, value, kept = Ref::Borrowed(Object(call));
  const Step step = Arrived(call, &stage, &body, &whole, &iterator, &value);
  if (step == Step::kLater) return Task(call->loop, Resumed(call, stage, iterator, value), options, true);
  Ref queue;
  if (step == Step::kReady && whole && !PyErr_Occurred()) queue = Known(call->app, body, &match);
  call->starting = true;
  const bool joined = queue && Join(As<Queue>(queue.get()), call, match, body.size - kPrefix);
  call->starting = false;
  if (PyErr_Occurred()) {
    if (call->state == State::kMoved)
      PyErr_WriteUnraisable(Object(call));  // a task has it
    else
      Fail(call, false);
  } else if (!joined) {
    return Task(call->loop, Resumed(call, "begun"), options, true);
  } else if (call->state == State::kWaiting && call->frame != nullptr) {
    Respond(call, false);
  }
  return kept.release();
}

// The coroutine of a call in Python.
Ref Regular(Call* call) {
  return Ref(PyObject_CallFunctionObjArgs(call->app->regular, call->scope, call->receive, call->send, nullptr));
}

// start(loop, coroutine, **options): the task factory.
PyObject* Start(PyObject*, PyObject* arguments, PyObject* options) {
  PyObject* loop = PyTuple_GetItem(arguments, 0);
  PyObject* coroutine = loop != nullptr ? PyTuple_GetItem(arguments, 1) : nullptr;
  if (coroutine == nullptr) return nullptr;
  Call* call = As<Call>(coroutine);
  if (coroutine->ob_type != g.call || call->inner != nullptr || call->state != State::kNew)
    return Task(loop, Ref::Borrowed(coroutine), options, false);
  if (call->caller == nullptr) return Task(loop, Regular(call), options, true);
  Set(call->loop, Increased(loop));
  return Begin(call, options);
}

// --- Call: a coroutine, for `await` and for a loop without the task factory ------------------------------------------

PySendResult SendCall(PyObject* self, PyObject* value, PyObject** result) {
  Call* call = As<Call>(self);
  *result = nullptr;
  if (call->loop == nullptr) {  // no future
    if (call->inner == nullptr) call->inner = Regular(call).release();
    return call->inner != nullptr ? PyIter_Send(call->inner, value, result) : python::kError;
  }
  if (call->state == State::kDone) {
    *result = Result(self, nullptr);
    return *result != nullptr ? python::kReturn : python::kError;
  }
  call->blocking = true;
  *result = Increased(self);
  return python::kNext;
}

PyObject* Send(PyObject* self, PyObject* value) {
  PyObject* result = nullptr;
  if (SendCall(self, value, &result) != python::kReturn) return result;
  Ref returned(result);
  PyErr_SetObject(PyExc_StopIteration, returned.get());
  return nullptr;
}

PyObject* Next(PyObject* self) { return Send(self, python::None()); }

PyObject* Throw(PyObject* self, PyObject* arguments) {
  Call* call = As<Call>(self);
  if (call->loop == nullptr && call->inner != nullptr) {
    Ref method(PyObject_GetAttr(call->inner, g.raise));
    return method ? PyObject_CallObject(method.get(), arguments) : nullptr;
  }
  PyObject* raised = PyTuple_GetItem(arguments, 0);
  if (raised == nullptr) return nullptr;
  if (python::Is(raised, python::kException))
    PyErr_SetObject(Object(raised->ob_type), raised);
  else
    PyErr_SetObject(raised, PyTuple_Size(arguments) > 1 ? PyTuple_GetItem(arguments, 1) : python::None());
  return nullptr;
}

PyObject* Close(PyObject* self, PyObject*) {
  Call* call = As<Call>(self);
  if (call->loop == nullptr && call->inner != nullptr) return PyObject_CallMethodObjArgs(call->inner, g.close, nullptr);
  return Increased(python::None());
}

int VisitCall(PyObject* self, visitproc visit, void* argument) {
  Call* call = As<Call>(self);
  return Visit(self, visit, argument, call->app, call->scope, call->receive, call->send, call->inner, call->events,
               call->loop, call->watchers, call->caller, call->error);
}

int ClearCall(PyObject* self) {
  Call* call = As<Call>(self);
  Py_DecRef(Object(std::exchange(call->app, nullptr)));
  for (PyObject** slot : {&call->scope, &call->receive, &call->send, &call->inner, &call->events, &call->loop,
                          &call->watchers, &call->raw, &call->id, &call->frame, &call->caller, &call->request_id,
                          &call->trace, &call->error})
    Set(*slot, nullptr);
  return 0;
}

// --- Application -----------------------------------------------------------------------------------------------------

// Application(path, regular, resume, start, end, limit, small, queues, callers, keyed, certified, sampled)
int InitApplication(PyObject* self, PyObject* arguments, PyObject*) {
  Application* app = As<Application>(self);
  PyObject *path, *regular, *resume, *start, *end, *queues, *callers, *sampled;
  if (!PyArg_ParseTuple(arguments, "UOOOOnnOOppO", &path, &regular, &resume, &start, &end, &app->limit, &app->small,
                        &queues, &callers, &app->keyed, &app->certified, &sampled))
    return -1;
  PyObject** slots[] = {&app->path, &app->regular, &app->resume,  &app->start,
                        &app->end,  &app->queues,  &app->callers, &app->sampled};
  PyObject* values[] = {path, regular, resume, start, end, queues, callers, sampled};
  for (int at = 0; at < 8; ++at) Set(*slots[at], Increased(values[at]));
  return 0;
}

bool Equals(const Bytes& bytes, const char* text) {
  return bytes.size == static_cast<Py_ssize_t>(std::strlen(text)) && std::memcmp(bytes.data, text, bytes.size) == 0;
}

constexpr long long kLongestHours = 1000000;  // in nanoseconds, more do not fit

// The nanoseconds of a header `grpc-timeout`: up to eight digits and a unit. -1: invalid.
long long Timeout(const Bytes& value) {
  if (value.size < 2 || value.size > 9) return -1;
  long long number = 0;
  for (Py_ssize_t at = 0; at + 1 < value.size; ++at) {
    if (value.data[at] < '0' || value.data[at] > '9') return -1;
    number = 10 * number + (value.data[at] - '0');
  }
  switch (value.data[value.size - 1]) {
    case 'H': return std::min(number, kLongestHours) * 3600000000000LL;
    case 'M': return number * 60000000000LL;
    case 'S': return number * 1000000000LL;
    case 'm': return number * 1000000LL;
    case 'u': return number * 1000LL;
    case 'n': return number;
  }
  return -1;
}

// Reads the headers of a call. `credential`: its header `authorization`, or null. False for a request that is not gRPC,
// is compressed, or has an invalid or repeated header: the regular path handles it.
bool Read(Call* call, PyObject* headers, PyObject** credential) {
  bool grpc = false;
  if (headers == nullptr || !python::Is(headers, python::kList)) return false;
  for (Py_ssize_t at = 0, count = PyList_Size(headers); at < count; ++at) {
    PyObject* header = PyList_GetItem(headers, at);
    if (!python::Is(header, python::kTuple) || PyTuple_Size(header) != 2) return false;
    PyObject* text = PyTuple_GetItem(header, 1);
    Bytes name, value;
    if (!name.of(PyTuple_GetItem(header, 0)) || !value.of(text)) return false;
    if (Equals(name, "content-type")) {
      grpc = Equals(value, "application/grpc") || Equals(value, "application/grpc+proto");
      if (!grpc) return false;
    } else if (Equals(name, "authorization")) {
      if (std::exchange(*credential, text) != nullptr) return false;
    } else if (Equals(name, "grpc-timeout")) {
      const long long span = Timeout(value);
      if (span < 0 || call->deadline != 0) return false;
      call->deadline = call->arrived + span;
    } else if (Equals(name, "x-request-id")) {
      Set(call->request_id, Increased(text));
    } else if (Equals(name, "traceparent")) {
      if (call->trace != nullptr) return false;
      call->trace = Increased(text);
    } else if (Equals(name, "http2-settings") || (Equals(name, "grpc-encoding") && !Equals(value, "identity"))) {
      return false;
    }
  }
  return grpc;
}

// The verified certificate of the client, as text, or None. Source: ASGI, "TLS Extension".
PyObject* Certificate(PyObject* scope) {
  PyObject* part = scope;
  for (PyObject* name : {g.extensions, g.tls, g.chain}) {
    if (part == nullptr || !python::Is(part, python::kDict)) return python::None();
    part = PyDict_GetItemWithError(part, name);
  }
  Ref first(part != nullptr && PyObject_Size(part) > 0 ? PyObject_GetItem(part, g.zero) : nullptr);
  return first ? first.get() : python::None();  // the scope keeps it
}

// Sets the caller of a call to this method, if its credential is known and valid. -1: an error.
int Recognize(Call* call) {
  Application* app = call->app;
  PyObject *scope = call->scope, *credential = nullptr;
  if (!python::Is(scope, python::kDict)) return 0;
  PyObject* keys[] = {g.path, g.method, g.version};
  PyObject* values[] = {app->path, g.post, g.two};
  for (int at = 0; at < 3; ++at)
    if (int same = Same(scope, keys[at], values[at]); same <= 0) return same;
  if (!Read(call, PyDict_GetItemWithError(scope, g.headers), &credential)) return PyErr_Occurred() ? -1 : 0;
  PyObject* key = python::None();
  if (app->keyed && credential != nullptr) key = credential;
  if (app->keyed && credential == nullptr && app->certified) key = Certificate(scope);
  PyObject* caller = PyErr_Occurred() ? nullptr : PyDict_GetItemWithError(app->callers, key);
  if (caller == nullptr) return PyErr_Occurred() ? -1 : 0;
  const Py_ssize_t until = PyLong_AsSsize_t(PyTuple_GetItem(caller, 2));
  if (until != 0 && Now(CLOCK_REALTIME) >= until) return 0;
  call->caller = Increased(caller);
  return 0;
}

PyObject* CallApplication(PyObject* self, PyObject* arguments, PyObject* named) {
  Application* app = As<Application>(self);
  if (PyTuple_Size(arguments) != 3 || named != nullptr) return PyObject_Call(app->regular, arguments, named);
  Ref created(New(g.call));
  if (!created) return nullptr;
  Call* call = As<Call>(created.get());
  call->app = As<Application>(Increased(self));
  call->scope = Increased(PyTuple_GetItem(arguments, 0));
  call->receive = Increased(PyTuple_GetItem(arguments, 1));
  call->send = Increased(PyTuple_GetItem(arguments, 2));
  call->arrived = Now();
  return Recognize(call) < 0 ? nullptr : created.release();
}

int VisitApplication(PyObject* self, visitproc visit, void* argument) {
  Application* app = As<Application>(self);
  return Visit(self, visit, argument, app->regular, app->resume, app->start, app->end, app->callers, app->queues,
               app->sampled);
}

int ClearApplication(PyObject* self) {
  Application* app = As<Application>(self);
  for (PyObject** slot : {&app->path, &app->regular, &app->resume, &app->start, &app->end, &app->callers, &app->queues,
                          &app->sampled})
    Set(*slot, nullptr);
  return 0;
}

// --- Module ----------------------------------------------------------------------------------------------------------

template <typename F>
void* Slot(F* function) {
  return reinterpret_cast<void*>(function);
}
PyCFunction Named(PyCFunctionWithKeywords function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function));
}
PyObject* Self(PyObject* self) { return Increased(self); }

PyMethodDef kQueueMethods[] = {{"take", Take, python::kNoArgs, nullptr},
                               {"deliver", Deliver, python::kVarArgs, nullptr},
                               {"wake", WakeAll, python::kVarArgs, nullptr},
                               {}};
PyMethodDef kCallMethods[] = {
    {"add_done_callback", Named(AddDoneCallback), python::kVarArgs | python::kKeywords, nullptr},
    {"remove_done_callback", RemoveDoneCallback, python::kOneArg, nullptr},
    {"cancel", Named(Cancel), python::kVarArgs | python::kKeywords, nullptr},
    {"done", IsDone, python::kNoArgs, nullptr},
    {"cancelled", IsCancelled, python::kNoArgs, nullptr},
    {"exception", Exception, python::kNoArgs, nullptr},
    {"result", Result, python::kNoArgs, nullptr},
    {"get_loop", GetLoop, python::kNoArgs, nullptr},
    {"set_name", SetName, python::kOneArg, nullptr},
    {"facts", Facts, python::kNoArgs, nullptr},
    {"adopt", Adopt, python::kOneArg, nullptr},
    {"respond", RespondLater, python::kNoArgs, nullptr},
    {"send", Send, python::kOneArg, nullptr},
    {"throw", Throw, python::kVarArgs, nullptr},
    {"close", Close, python::kNoArgs, nullptr},
    {}};
PyGetSetDef kCallAttributes[] = {{"_asyncio_future_blocking", GetBlocking, SetBlocking, nullptr, nullptr}, {}};
PyMethodDef kFunctions[] = {{"start", Named(Start), python::kVarArgs | python::kKeywords, nullptr}, {}};

PyTypeObject* Type(const char* name, int size, bool instances, std::vector<PyType_Slot> slots) {
  slots.push_back({0, nullptr});
  const unsigned flags = python::kGarbageCollected | (instances ? 0u : python::kNoInstances);
  PyType_Spec spec = {name, size, 0, flags, slots.data()};
  return As<PyTypeObject>(PyType_FromSpec(&spec));
}

bool Intern() {
  struct {
    PyObject** slot;
    const char* text;
  } const names[] = {{&g.path, "path"}, {&g.headers, "headers"}, {&g.method, "method"}, {&g.version, "http_version"},
                     {&g.post, "POST"}, {&g.two, "2"}, {&g.await, "__await__"}, {&g.raise, "throw"},
                     {&g.close, "close"}, {&g.type, "type"}, {&g.body, "body"}, {&g.more, "more_body"},
                     {&g.request, "http.request"}, {&g.response_body, "http.response.body"},
                     {&g.context, "context"}, {&g.call_soon, "call_soon"}, {&g.loop, "loop"},
                     {&g.eager_start, "eager_start"}, {&g.add_done_callback, "add_done_callback"},
                     {&g.cancel, "cancel"}, {&g.cancelled_method, "cancelled"}, {&g.exception, "exception"},
                     {&g.adopt, "adopt"}, {&g.respond, "respond"}, {&g.extensions, "extensions"}, {&g.tls, "tls"},
                     {&g.chain, "client_cert_chain"}};
  for (const auto& name : names)
    if ((*name.slot = PyUnicode_InternFromString(name.text)) == nullptr) return false;
  g.empty = PyBytes_FromStringAndSize("", 0);
  g.zero = PyLong_FromLongLong(0);
  Ref asyncio(PyImport_ImportModule("asyncio"));
  if (!asyncio || g.empty == nullptr || g.zero == nullptr) return false;
  g.cancelled = PyObject_GetAttrString(asyncio.get(), "CancelledError");
  g.invalid = PyObject_GetAttrString(asyncio.get(), "InvalidStateError");
  g.task = PyObject_GetAttrString(asyncio.get(), "Task");
  Ref factory(PyObject_GetAttrString(asyncio.get(), "eager_task_factory"));
  g.eager = static_cast<bool>(factory);
  PyErr_Clear();
  return g.cancelled != nullptr && g.invalid != nullptr && g.task != nullptr;
}

PyModuleDef kModule = {{1, nullptr}, nullptr, 0, nullptr, "calls", nullptr, -1, kFunctions, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit_calls() {
  if (!Intern()) return nullptr;
  Ref module(PyModule_Create2(&kModule, python::kApi));
  g.call = Type("kanserve_kernel.calls.Call", sizeof(Call), false,
                {{python::kDealloc, Slot(Free<ClearCall>)},
                 {python::kTraverse, Slot(VisitCall)},
                 {python::kClear, Slot(ClearCall)},
                 {python::kMethods, kCallMethods},
                 {python::kGetSet, kCallAttributes},
                 {python::kIter, Slot(Self)},
                 {python::kIterNext, Slot(Next)},
                 {python::kAwait, Slot(Self)},
                 {python::kAmSend, Slot(SendCall)}});
  PyTypeObject* queue = Type("kanserve_kernel.calls.Queue", sizeof(Queue), true,
                             {{python::kDealloc, Slot(Free<ClearQueue>)},
                              {python::kTraverse, Slot(VisitQueue)},
                              {python::kClear, Slot(ClearQueue)},
                              {python::kInit, Slot(InitQueue)},
                              {python::kMethods, kQueueMethods}});
  PyTypeObject* application = Type("kanserve_kernel.calls.Application", sizeof(Application), true,
                                   {{python::kDealloc, Slot(Free<ClearApplication>)},
                                    {python::kTraverse, Slot(VisitApplication)},
                                    {python::kClear, Slot(ClearApplication)},
                                    {python::kInit, Slot(InitApplication)},
                                    {python::kCall, Slot(CallApplication)}});
  struct {
    const char* name;
    PyTypeObject* type;
  } const types[] = {{"Call", g.call}, {"Queue", queue}, {"Application", application}};
  for (const auto& item : types)
    if (!module || item.type == nullptr || PyModule_AddObjectRef(module.get(), item.name, Object(item.type)) < 0)
      return nullptr;
  if (PyModule_AddIntConstant(module.get(), "VERSION", kVersion) < 0) return nullptr;
  return module.release();
}
