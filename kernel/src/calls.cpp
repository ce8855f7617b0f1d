// Direct calls of an ASGI application without Python frames: a unary gRPC call whose message has a known head.
//
//   Queue        waiting requests with one known head; Python runs them as one batch (take, deliver)
//   Reply        the response that a call waits for; for asyncio it is a future
//   Call         coroutine of one call: it receives, waits for its reply, and sends
//   Application  ASGI application that makes a Call, or calls the Python application for any other request
//
// A call that cannot go on here (its body has not arrived, its head is unknown, its client reads slowly) continues in
// the coroutine that Python's `resume` makes. `kanserve.transport.asgi` has the same path in Python, and its tests run
// with both.
//
// Sources: ASGI 3.0; "gRPC over HTTP2"; Protocol Buffers, "Encoding"; Python, "asyncio.Future" (the attribute
// _asyncio_future_blocking, add_done_callback, cancel, get_loop and result are all that a task uses of a future).
#include <time.h>

#include <climits>
#include <cstring>
#include <vector>

#include "python_abi.h"

namespace {

using python::Ref;

struct Names {
  PyObject *path, *headers, *method, *version, *post, *two, *await, *raise, *close, *type, *body, *more, *request,
      *response_body, *context, *run, *call_soon, *empty;
  PyObject* cancelled;  // asyncio.CancelledError
  PyTypeObject *call, *reply;
} g;

constexpr long kVersion = 1;          // of the functions and stages below, which Python's part checks
constexpr Py_ssize_t kPrefix = 5;     // bytes of a gRPC frame before its message
constexpr char kIdTag = 3 << 3 | 2;   // of the field `id`, in a ModelInferRequest and in a ModelInferResponse
constexpr Py_ssize_t kLongestId = 127;  // of which the length takes one byte

void Set(PyObject*& slot, PyObject* owned) { Py_DecRef(std::exchange(slot, owned)); }

PyObject* Increased(PyObject* object) {
  Py_IncRef(object);
  return object;
}

long long Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);  // as time.perf_counter_ns on Linux
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

struct Reply {
  PyObject base;
  PyObject *callback, *context, *loop;
  PyObject *raw, *id, *frame;
  long long arrived;
  Py_ssize_t bytes;
  bool blocking, cancelled, moved;
};

struct Queue {
  PyObject base;
  PyObject *open, *run, *loop;
  Head head;
  PyObject* waiting;  // list of replies
  Py_ssize_t size;    // bytes of the input
  Py_ssize_t room;    // requests of this batch; negative: each runs at once
};

struct Application {
  PyObject base;
  PyObject *path, *regular, *resume, *start, *end;
  PyObject* plain;   // headers of a call without metadata, or None
  PyObject* queues;  // list, the last used first
  Py_ssize_t limit;  // bytes of a message
  Py_ssize_t small;  // bytes of a response that is sent at once
};

enum class State : char { kNew, kWaiting, kDelegated, kDone };

struct Call {
  PyObject base;
  Application* app;
  PyObject *scope, *receive, *send;
  PyObject* inner;   // coroutine that has the rest of the call
  PyObject* events;  // of the request, a tuple
  Reply* reply;
  State state;
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

// --- Reply -----------------------------------------------------------------------------------------------------------

PyObject* AddDoneCallback(PyObject* self, PyObject* arguments, PyObject* named) {
  PyObject* callback = PyTuple_GetItem(arguments, 0);
  PyObject* context = named != nullptr ? PyDict_GetItemWithError(named, g.context) : nullptr;
  if (callback == nullptr || context == nullptr) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "only a task may wait for a reply");
    return nullptr;
  }
  Set(As<Reply>(self)->callback, Increased(callback));
  Set(As<Reply>(self)->context, Increased(context));
  return Increased(python::None());
}

// Wake the task that waits for a reply, if one does: now, or in the next iteration of the loop. An error is reported,
// because other tasks wait for their turn.
void Wake(Reply* reply, bool now) {
  Ref callback(std::exchange(reply->callback, nullptr)), context(std::exchange(reply->context, nullptr));
  if (!callback) return;
  Ref done;
  if (now) {
    done = Ref(PyObject_CallMethodObjArgs(context.get(), g.run, callback.get(), Object(reply), nullptr));
  } else {
    Ref method(PyObject_GetAttr(reply->loop, g.call_soon));
    Ref positional(PyTuple_Pack(2, callback.get(), Object(reply))), named(PyDict_New());
    if (method && positional && named && PyDict_SetItem(named.get(), g.context, context.get()) == 0)
      done = Ref(PyObject_Call(method.get(), positional.get(), named.get()));
  }
  if (!done) PyErr_WriteUnraisable(callback.get());
}

PyObject* Cancel(PyObject* self, PyObject*, PyObject*) {
  Reply* reply = As<Reply>(self);
  const bool open = !reply->cancelled && !reply->moved && reply->frame == nullptr;
  if (open) {
    reply->cancelled = true;
    Wake(reply, false);
  }
  return PyBool_FromLong(open);
}

PyObject* Result(PyObject* self, PyObject*) {
  if (!As<Reply>(self)->cancelled) return Increased(python::None());
  PyErr_SetNone(g.cancelled);
  return nullptr;
}

PyObject* GetLoop(PyObject* self, PyObject*) { return Increased(As<Reply>(self)->loop); }

PyObject* GetBlocking(PyObject* self, void*) { return PyBool_FromLong(As<Reply>(self)->blocking); }

int SetBlocking(PyObject* self, PyObject* value, void*) {
  As<Reply>(self)->blocking = value != nullptr && PyObject_IsTrue(value) > 0;
  return 0;
}

int VisitReply(PyObject* self, visitproc visit, void* argument) {
  Reply* reply = As<Reply>(self);
  return Visit(self, visit, argument, reply->callback, reply->context, reply->loop);
}

int ClearReply(PyObject* self) {
  Reply* reply = As<Reply>(self);
  for (PyObject** slot : {&reply->callback, &reply->context, &reply->loop, &reply->raw, &reply->id, &reply->frame})
    Set(*slot, nullptr);
  return 0;
}

// --- Queue -----------------------------------------------------------------------------------------------------------

// Queue(open, run, loop, lead, rest, before, after, size)
int InitQueue(PyObject* self, PyObject* arguments, PyObject*) {
  Queue* queue = As<Queue>(self);
  PyObject *open, *run, *loop, *lead, *rest, *before, *after;
  if (!PyArg_ParseTuple(arguments, "OOOSSSSn", &open, &run, &loop, &lead, &rest, &before, &after, &queue->size)) return -1;
  PyObject** slots[] = {&queue->open,      &queue->run,         &queue->loop,      &queue->head.lead,
                        &queue->head.rest, &queue->head.before, &queue->head.after};
  PyObject* values[] = {open, run, loop, lead, rest, before, after};
  for (int at = 0; at < 7; ++at) Set(*slots[at], Increased(values[at]));
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

// A reply for a request, after a run if it was the last of its batch. Null without an error: no room.
Reply* Join(Queue* queue, const Match& match, Py_ssize_t bytes) {
  const Py_ssize_t count = PyList_Size(queue->waiting);
  if (count == 0) {
    Ref room(PyObject_CallNoArgs(queue->open));
    if (!room) return nullptr;
    queue->room = PyLong_AsSsize_t(room.get());
    if (PyErr_Occurred()) return nullptr;
  }
  const Py_ssize_t most = queue->room < 0 ? 1 : queue->room;
  if (count >= most) return nullptr;
  Ref created(New(g.reply));
  if (!created) return nullptr;
  Reply* reply = As<Reply>(created.get());
  reply->loop = Increased(queue->loop);
  reply->arrived = Now();
  reply->bytes = bytes;
  reply->blocking = true;
  reply->raw = PyBytes_FromStringAndSize(match.input, queue->size);
  if (match.id != nullptr) reply->id = PyBytes_FromStringAndSize(match.id, match.id_size);
  if (reply->raw == nullptr || (match.id != nullptr && reply->id == nullptr)) return nullptr;
  if (PyList_Append(queue->waiting, created.get()) < 0) return nullptr;
  if (queue->room < 0 || count + 1 == most) {
    Ref done(PyObject_CallNoArgs(queue->run));
    if (!done) return nullptr;
  }
  return As<Reply>(created.release());
}

// take() -> (batch, inputs, arrived, bytes, abandoned): the waiting requests, the bytes of their inputs, their arrivals,
// the bytes of their messages, and the requests whose clients have disconnected, as (arrived, bytes, id).
PyObject* Take(PyObject* self, PyObject*) {
  Queue* queue = As<Queue>(self);
  Ref empty(PyList_New(0)), batch(PyList_New(0)), arrivals(PyList_New(0)), abandoned(PyList_New(0));
  if (!empty || !batch || !arrivals || !abandoned) return nullptr;
  Py_ssize_t bytes = 0;
  Ref waiting(std::exchange(queue->waiting, empty.release()));
  const Py_ssize_t count = PyList_Size(waiting.get());
  for (Py_ssize_t at = 0; at < count; ++at) {
    PyObject* item = PyList_GetItem(waiting.get(), at);
    Reply* reply = As<Reply>(item);
    if (!reply->cancelled) {
      Ref arrived(PyLong_FromLongLong(reply->arrived));
      if (!arrived || PyList_Append(arrivals.get(), arrived.get()) < 0) return nullptr;
      if (PyList_Append(batch.get(), item) < 0) return nullptr;
      bytes += reply->bytes;
      continue;
    }
    Ref gone(Py_BuildValue("LnO", reply->arrived, reply->bytes, reply->id != nullptr ? reply->id : g.empty));
    if (!gone || PyList_Append(abandoned.get(), gone.get()) < 0) return nullptr;
  }
  const Py_ssize_t present = PyList_Size(batch.get());
  Ref inputs(PyBytes_FromStringAndSize(nullptr, present * queue->size));
  Bytes target;
  if (!inputs || !target.of(inputs.get())) return nullptr;
  for (Py_ssize_t at = 0; at < present; ++at) {
    Bytes raw;
    if (!raw.of(As<Reply>(PyList_GetItem(batch.get(), at))->raw)) return nullptr;
    std::memcpy(target.data + at * queue->size, raw.data, raw.size);
  }
  return Py_BuildValue("OOOnO", batch.get(), inputs.get(), arrivals.get(), bytes, abandoned.get());
}

// The framed response to one request.
PyObject* Framed(const Head& head, const Reply* reply, const char* output, Py_ssize_t size) {
  Bytes before, after, id;
  if (!before.of(head.before) || !after.of(head.after)) return nullptr;
  const bool named = id.of(reply->id);
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

// deliver(batch, outputs): encodes the response of each request, with its rows of `outputs`.
PyObject* Deliver(PyObject* self, PyObject* arguments) {
  Queue* queue = As<Queue>(self);
  PyObject *batch, *outputs;
  if (!PyArg_ParseTuple(arguments, "OS", &batch, &outputs)) return nullptr;
  const Py_ssize_t count = PyList_Size(batch);
  Bytes rows;
  if (count <= 0 || !rows.of(outputs)) return nullptr;
  const Py_ssize_t size = rows.size / count;
  for (Py_ssize_t at = 0; at < count; ++at) {
    Reply* reply = As<Reply>(PyList_GetItem(batch, at));
    Set(reply->frame, Framed(queue->head, reply, rows.data + at * size, size));
    if (reply->frame == nullptr) return nullptr;
  }
  return Increased(python::None());
}

// wake(batch, now): lets each call of the batch go on, now or in the next iteration of the loop.
PyObject* WakeAll(PyObject*, PyObject* arguments) {
  PyObject* batch;
  int now;
  if (!PyArg_ParseTuple(arguments, "Op", &batch, &now)) return nullptr;
  for (Py_ssize_t at = 0, count = PyList_Size(batch); at < count; ++at)
    Wake(As<Reply>(PyList_GetItem(batch, at)), now);
  return Increased(python::None());
}

// move(batch): Python's application handles each request without a response.
PyObject* Move(PyObject*, PyObject* batch) {
  for (Py_ssize_t at = 0, count = PyList_Size(batch); at < count; ++at) {
    Reply* reply = As<Reply>(PyList_GetItem(batch, at));
    reply->moved = reply->frame == nullptr;
    Wake(reply, false);
  }
  return Increased(python::None());
}

int VisitQueue(PyObject* self, visitproc visit, void* argument) {
  Queue* queue = As<Queue>(self);
  return Visit(self, visit, argument, queue->open, queue->run, queue->loop, queue->waiting);
}

int ClearQueue(PyObject* self) {
  Queue* queue = As<Queue>(self);
  for (PyObject** slot : {&queue->open, &queue->run, &queue->loop, &queue->waiting, &queue->head.lead,
                          &queue->head.rest, &queue->head.before, &queue->head.after})
    Set(*slot, nullptr);
  return 0;
}

// --- Call ------------------------------------------------------------------------------------------------------------

PySendResult Step(Call* call, PyObject* value, PyObject** result) {
  const PySendResult outcome = PyIter_Send(call->inner, value, result);
  if (outcome != python::kNext) {
    Set(call->inner, nullptr);
    call->state = State::kDone;
  }
  return outcome;
}

// Continue in Python from this stage on. `iterator` has yielded `yielded` to the task.
PySendResult Delegate(Call* call, const char* stage, Ref iterator, Ref yielded, PyObject** result) {
  Ref name(PyUnicode_InternFromString(stage));
  call->state = State::kDone;
  if (!name) return python::kError;
  auto given = [](PyObject* object) { return object != nullptr ? object : python::None(); };
  PyObject* coroutine = PyObject_CallFunctionObjArgs(call->app->resume, name.get(), call->scope, call->receive, call->send,
                                                     given(call->events), given(iterator.get()), given(yielded.get()),
                                                     nullptr);
  if (coroutine == nullptr) return python::kError;
  Set(call->inner, coroutine);
  call->state = State::kDelegated;
  return Step(call, python::None(), result);
}

// Await what a call of `receive` or `send` has returned. False: the call ends with `outcome`, here or in Python.
bool Ready(Call* call, const char* stage, Ref awaitable, Ref* value, PySendResult* outcome, PyObject** result) {
  *outcome = python::kError;
  Ref iterator(awaitable ? PyObject_CallMethodObjArgs(awaitable.get(), g.await, nullptr) : nullptr);
  if (!iterator) return false;
  PyObject* object = nullptr;
  *outcome = PyIter_Send(iterator.get(), python::None(), &object);
  *value = Ref(object);
  if (*outcome == python::kNext) *outcome = Delegate(call, stage, std::move(iterator), std::move(*value), result);
  else if (*outcome == python::kReturn) return true;
  return false;
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

PySendResult Respond(Call* call, PyObject* frame, PyObject** result) {
  Ref body(PyDict_New());
  Bytes bytes;
  if (!body || !bytes.of(frame)) return python::kError;
  if (bytes.size > call->app->small + kPrefix) {
    Set(call->events, PyTuple_Pack(1, frame));
    if (call->events == nullptr) return python::kError;
    return Delegate(call, "large", Ref(), Ref(), result);
  }
  if (PyDict_SetItem(body.get(), g.type, g.response_body) < 0 || PyDict_SetItem(body.get(), g.body, frame) < 0 ||
      PyDict_SetItem(body.get(), g.more, &_Py_FalseStruct) < 0)
    return python::kError;
  Set(call->events, PyTuple_Pack(1, body.get()));
  if (call->events == nullptr) return python::kError;
  PyObject* events[] = {call->app->start, body.get(), call->app->end};
  static const char* const kStages[] = {"started", "sent", "ended"};
  for (int at = 0; at < 3; ++at) {
    PySendResult outcome;
    Ref value;
    if (Ready(call, kStages[at], Ref(PyObject_CallFunctionObjArgs(call->send, events[at], nullptr)), &value, &outcome,
              result))
      continue;
    if (outcome != python::kError || call->inner != nullptr || !PyErr_ExceptionMatches(PyExc_OSError)) return outcome;
    PyErr_Clear();
    return Delegate(call, "disconnected", Ref(), Ref(), result);
  }
  *result = Increased(python::None());
  call->state = State::kDone;
  return python::kReturn;
}

// Goes on after the reply is complete.
PySendResult Finish(Call* call, PyObject** result) {
  Ref kept(Object(std::exchange(call->reply, nullptr)));
  Reply* reply = As<Reply>(kept.get());
  if (reply->moved) return Delegate(call, "begun", Ref(), Ref(), result);
  if (reply->frame != nullptr) return Respond(call, reply->frame, result);
  PyErr_SetString(PyExc_RuntimeError, "the task of a call was woken before its reply");
  return python::kError;
}

// The queue of the head of a body, or null.
Queue* Known(Application* app, const Bytes& body, Match* match) {
  const unsigned char* length = reinterpret_cast<const unsigned char*>(body.data) + 1;
  if (body.size < kPrefix || body.data[0] != 0) return nullptr;
  const size_t size = static_cast<size_t>(length[0]) << 24 | length[1] << 16 | length[2] << 8 | length[3];
  if (size + kPrefix != static_cast<size_t>(body.size) || body.size - kPrefix > app->limit) return nullptr;
  for (Py_ssize_t at = 0, count = PyList_Size(app->queues); at < count; ++at) {
    Queue* queue = As<Queue>(PyList_GetItem(app->queues, at));
    if (Matches(queue, body, match)) return queue;
  }
  return nullptr;
}

PySendResult Begin(Call* call, PyObject** result) {
  PySendResult outcome;
  Ref first, last;
  if (!Ready(call, "arriving", Ref(PyObject_CallNoArgs(call->receive)), &first, &outcome, result)) return outcome;
  Set(call->events, PyTuple_Pack(1, first.get()));
  if (call->events == nullptr) return python::kError;
  Bytes body;
  Match match;
  bool whole = python::Is(first.get(), python::kDict) && body.of(PyDict_GetItemWithError(first.get(), g.body));
  if (whole && More(first.get())) {
    if (!Ready(call, "ending", Ref(PyObject_CallNoArgs(call->receive)), &last, &outcome, result)) return outcome;
    Set(call->events, PyTuple_Pack(2, first.get(), last.get()));
    if (call->events == nullptr) return python::kError;
    PyObject* rest = PyDict_GetItemWithError(last.get(), g.body);
    whole = Same(last.get(), g.type, g.request) > 0 && !More(last.get()) && (rest == nullptr || PyObject_Size(rest) == 0);
  }
  Queue* queue = whole && !PyErr_Occurred() ? Known(call->app, body, &match) : nullptr;
  if (queue != nullptr) {
    Ref kept = Ref::Borrowed(Object(queue));
    call->reply = Join(queue, match, body.size - kPrefix);
  }
  if (PyErr_Occurred()) return python::kError;
  if (call->reply == nullptr) return Delegate(call, "begun", Ref(), Ref(), result);
  if (call->reply->frame != nullptr || call->reply->moved) return Finish(call, result);
  call->state = State::kWaiting;
  *result = Increased(Object(call->reply));
  return python::kNext;
}

PySendResult SendCall(PyObject* self, PyObject* value, PyObject** result) {
  Call* call = As<Call>(self);
  *result = nullptr;
  if (call->state == State::kDelegated) return Step(call, value, result);
  PySendResult outcome = python::kError;
  if (call->state == State::kNew)
    outcome = Begin(call, result);
  else if (call->state == State::kWaiting)
    outcome = Finish(call, result);
  else
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
  if (outcome == python::kError) call->state = State::kDone;
  return outcome;
}

PyObject* Stopped(PySendResult outcome, PyObject* result) {
  if (outcome != python::kReturn) return result;
  Ref value(result);
  PyErr_SetObject(PyExc_StopIteration, value.get());
  return nullptr;
}

PyObject* Send(PyObject* self, PyObject* value) {
  PyObject* result = nullptr;
  const PySendResult outcome = SendCall(self, value, &result);
  return Stopped(outcome, result);
}

PyObject* Next(PyObject* self) { return Send(self, python::None()); }

// The call ends here: its request is not computed.
void Abandon(Call* call) {
  if (call->reply != nullptr) call->reply->cancelled = true;
  call->state = State::kDone;
}

PyObject* Throw(PyObject* self, PyObject* arguments) {
  Call* call = As<Call>(self);
  if (call->inner != nullptr) {
    Ref method(PyObject_GetAttr(call->inner, g.raise));
    PyObject* result = method ? PyObject_CallObject(method.get(), arguments) : nullptr;
    if (result == nullptr) {
      Set(call->inner, nullptr);
      call->state = State::kDone;
    }
    return result;
  }
  Abandon(call);
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
  Abandon(call);
  Ref inner(std::exchange(call->inner, nullptr));
  if (inner) return PyObject_CallMethodObjArgs(inner.get(), g.close, nullptr);
  return Increased(python::None());
}

int VisitCall(PyObject* self, visitproc visit, void* argument) {
  Call* call = As<Call>(self);
  return Visit(self, visit, argument, call->app, call->scope, call->receive, call->send, call->inner, call->events,
               call->reply);
}

int ClearCall(PyObject* self) {
  Call* call = As<Call>(self);
  Abandon(call);
  Py_DecRef(Object(std::exchange(call->app, nullptr)));
  Py_DecRef(Object(std::exchange(call->reply, nullptr)));
  for (PyObject** slot : {&call->scope, &call->receive, &call->send, &call->inner, &call->events}) Set(*slot, nullptr);
  return 0;
}

// --- Application -----------------------------------------------------------------------------------------------------

// Application(path, regular, resume, start, end, limit, small, queues)
int InitApplication(PyObject* self, PyObject* arguments, PyObject*) {
  Application* app = As<Application>(self);
  PyObject *path, *regular, *resume, *start, *end, *queues;
  if (!PyArg_ParseTuple(arguments, "UOOOOnnO", &path, &regular, &resume, &start, &end, &app->limit, &app->small, &queues))
    return -1;
  PyObject** slots[] = {&app->path, &app->regular, &app->resume, &app->start, &app->end, &app->plain, &app->queues};
  PyObject* values[] = {path, regular, resume, start, end, python::None(), queues};
  for (int at = 0; at < 7; ++at) Set(*slots[at], Increased(values[at]));
  return 0;
}

// 1 for a call that has the known headers, 0 for any other request, -1 for an error.
int Plain(Application* app, PyObject* scope) {
  if (app->plain == python::None() || !python::Is(scope, python::kDict)) return 0;
  PyObject* keys[] = {g.path, g.headers, g.method, g.version};
  PyObject* values[] = {app->path, app->plain, g.post, g.two};
  for (int at = 0; at < 4; ++at)
    if (int same = Same(scope, keys[at], values[at]); same <= 0) return same;
  return 1;
}

PyObject* CallApplication(PyObject* self, PyObject* arguments, PyObject* named) {
  Application* app = As<Application>(self);
  const int plain = PyTuple_Size(arguments) == 3 && named == nullptr ? Plain(app, PyTuple_GetItem(arguments, 0)) : 0;
  if (plain <= 0) return plain < 0 ? nullptr : PyObject_Call(app->regular, arguments, named);
  PyObject* created = New(g.call);
  if (created == nullptr) return nullptr;
  Call* call = As<Call>(created);
  call->app = As<Application>(Increased(self));
  call->scope = Increased(PyTuple_GetItem(arguments, 0));
  call->receive = Increased(PyTuple_GetItem(arguments, 1));
  call->send = Increased(PyTuple_GetItem(arguments, 2));
  return created;
}

template <PyObject* Application::*Member>
PyObject* Get(PyObject* self, void*) {
  return Increased(As<Application>(self)->*Member);
}

template <PyObject* Application::*Member>
int Put(PyObject* self, PyObject* value, void*) {
  Set(As<Application>(self)->*Member, Increased(value != nullptr ? value : python::None()));
  return 0;
}

int VisitApplication(PyObject* self, visitproc visit, void* argument) {
  Application* app = As<Application>(self);
  return Visit(self, visit, argument, app->regular, app->resume, app->start, app->end, app->plain, app->queues);
}

int ClearApplication(PyObject* self) {
  Application* app = As<Application>(self);
  for (PyObject** slot : {&app->path, &app->regular, &app->resume, &app->start, &app->end, &app->plain, &app->queues})
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

PyMethodDef kReplyMethods[] = {{"add_done_callback", Named(AddDoneCallback), python::kVarArgs | python::kKeywords, nullptr},
                               {"cancel", Named(Cancel), python::kVarArgs | python::kKeywords, nullptr},
                               {"result", Result, python::kNoArgs, nullptr},
                               {"get_loop", GetLoop, python::kNoArgs, nullptr},
                               {}};
PyGetSetDef kReplyAttributes[] = {{"_asyncio_future_blocking", GetBlocking, SetBlocking, nullptr, nullptr}, {}};
PyMethodDef kQueueMethods[] = {{"take", Take, python::kNoArgs, nullptr},
                               {"deliver", Deliver, python::kVarArgs, nullptr},
                               {"wake", WakeAll, python::kVarArgs, nullptr},
                               {"move", Move, python::kOneArg, nullptr},
                               {}};
PyMethodDef kCallMethods[] = {{"send", Send, python::kOneArg, nullptr},
                              {"throw", Throw, python::kVarArgs, nullptr},
                              {"close", Close, python::kNoArgs, nullptr},
                              {}};
PyGetSetDef kApplicationAttributes[] = {
    {"plain", Get<&Application::plain>, Put<&Application::plain>, nullptr, nullptr},
    {}};

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
                     {&g.context, "context"}, {&g.run, "run"}, {&g.call_soon, "call_soon"}};
  for (const auto& name : names)
    if ((*name.slot = PyUnicode_InternFromString(name.text)) == nullptr) return false;
  g.empty = PyBytes_FromStringAndSize("", 0);
  Ref exceptions(PyImport_ImportModule("asyncio.exceptions"));
  g.cancelled = exceptions ? PyObject_GetAttrString(exceptions.get(), "CancelledError") : nullptr;
  return g.empty != nullptr && g.cancelled != nullptr;
}

PyModuleDef kModule = {{1, nullptr}, nullptr, 0, nullptr, "calls", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) PyObject* PyInit_calls() {
  if (!Intern()) return nullptr;
  Ref module(PyModule_Create2(&kModule, python::kApi));
  g.reply = Type("kanserve_kernel.calls.Reply", sizeof(Reply), false,
                 {{python::kDealloc, Slot(Free<ClearReply>)},
                  {python::kTraverse, Slot(VisitReply)},
                  {python::kClear, Slot(ClearReply)},
                  {python::kMethods, kReplyMethods},
                  {python::kGetSet, kReplyAttributes}});
  g.call = Type("kanserve_kernel.calls.Call", sizeof(Call), false,
                {{python::kDealloc, Slot(Free<ClearCall>)},
                 {python::kTraverse, Slot(VisitCall)},
                 {python::kClear, Slot(ClearCall)},
                 {python::kMethods, kCallMethods},
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
                                    {python::kCall, Slot(CallApplication)},
                                    {python::kGetSet, kApplicationAttributes}});
  struct {
    const char* name;
    PyTypeObject* type;
  } const types[] = {{"Reply", g.reply}, {"Call", g.call}, {"Queue", queue}, {"Application", application}};
  for (const auto& item : types)
    if (!module || item.type == nullptr || PyModule_AddObjectRef(module.get(), item.name, Object(item.type)) < 0)
      return nullptr;
  if (PyModule_AddIntConstant(module.get(), "VERSION", kVersion) < 0) return nullptr;
  return module.release();
}
