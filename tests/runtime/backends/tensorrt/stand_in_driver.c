/* A stand-in for NVIDIA's driver library, libcuda.so.1: enough of it for the calls that caan makes through cuda-core and
   cuda-bindings. Device memory is the host's, streams do everything at once. test_cuda.py builds and loads it. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Address;
typedef void *Handle;

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALIDATED = 901 };
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76 }; /* of CUdevice_attribute */
static const size_t memory = (size_t)1 << 33;

static __thread Handle context;
static int capturing; /* 1: yes, 2: something went wrong in it */
static uint64_t handles = 0x1000;

/* What a test may ask. */
int launches, allocations, frees;
void break_capture(void) { capturing = 2; }

static Result handle(Handle *result) { *result = (Handle)(handles += 16); return SUCCESS; }

static Result cuInit(unsigned flags) { return SUCCESS; }
static Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
static Result cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
static Result cuDeviceGet(int *device, int number) { *device = number; return number ? INVALID_DEVICE : SUCCESS; }
static Result cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stand-in", size); return SUCCESS; }
static Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == CAPABILITY_MAJOR ? 8 : attribute == CAPABILITY_MINOR ? 6 : 1;
  return SUCCESS;
}
static Result cuDevicePrimaryCtxRetain(Handle *result, int device) { *result = (Handle)0x10; return SUCCESS; }
static Result cuCtxSetCurrent(Handle given) { context = given; return SUCCESS; }
static Result cuCtxGetCurrent(Handle *result) { *result = context; return SUCCESS; }
static Result cuCtxGetDevice(int *device) { *device = 0; return context ? SUCCESS : INVALID_CONTEXT; }
static Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return handle(stream); }
static Result cuEventCreate(Handle *event, unsigned flags) { return handle(event); }
static Result cuEventRecord(Handle event, Handle stream) { return SUCCESS; }
static Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return SUCCESS; }
static Result cuMemGetInfo(size_t *unused, size_t *total) { *unused = memory; *total = 2 * memory; return SUCCESS; }
static Result cuMemAlloc(Address *address, size_t size) {
  if (!context) return INVALID_CONTEXT;
  if (!size) return INVALID_VALUE;
  if (size > memory) return OUT_OF_MEMORY;
  allocations++;
  *address = (Address)aligned_alloc(256, (size + 255) / 256 * 256);
  return SUCCESS;
}
static Result cuMemFree(Address address) {
  if (!context) return INVALID_CONTEXT;
  frees++;
  free((void *)address);
  return SUCCESS;
}
static Result cuMemAllocHost(void **address, size_t size) { return cuMemAlloc((Address *)address, size); }
static Result cuMemFreeHost(void *address) { return cuMemFree((Address)address); }
static Result cuMemcpyHtoDAsync(Address device, const void *host, size_t size, Handle stream) {
  memcpy((void *)device, host, size);
  return SUCCESS;
}
static Result cuMemcpyDtoHAsync(void *host, Address device, size_t size, Handle stream) {
  memcpy(host, (void *)device, size);
  return SUCCESS;
}
static Result cuStreamBeginCapture(Handle stream, int mode) { capturing = 1; return SUCCESS; }
static Result cuStreamEndCapture(Handle stream, Handle *graph) {
  int state = capturing;
  capturing = 0;
  if (graph) *graph = (Handle)0x20;
  return state == 1 ? SUCCESS : INVALIDATED;
}
static Result cuStreamGetCaptureInfo(Handle stream, int *state, Address *id, Handle *graph) {
  if (state) *state = capturing;
  if (id) *id = 1;
  if (graph) *graph = (Handle)0x20;
  return SUCCESS;
}
static Result cuGraphInstantiateWithParams(Handle *executable, Handle graph, Handle parameters) { return handle(executable); }
static Result cuGraphLaunch(Handle executable, Handle stream) { launches++; return SUCCESS; }
static Result cuGetErrorString(int error, const char **text) {
  *text = error == OUT_OF_MEMORY ? "out of memory" : error == INVALID_CONTEXT ? "invalid device context" : "an error";
  return SUCCESS;
}
static Result anything(void) { return SUCCESS; } /* destroying handles, waiting, and what is looked up but not called */

#define FUNCTION(name) {#name, (Handle)name}
static const struct { const char *name; Handle function; } functions[] = {
    FUNCTION(cuInit), FUNCTION(cuDriverGetVersion), FUNCTION(cuDeviceGetCount), FUNCTION(cuDeviceGet),
    FUNCTION(cuDeviceGetName), FUNCTION(cuDeviceGetAttribute), FUNCTION(cuDevicePrimaryCtxRetain),
    FUNCTION(cuCtxSetCurrent), FUNCTION(cuCtxGetCurrent), FUNCTION(cuCtxGetDevice),
    FUNCTION(cuStreamCreateWithPriority), FUNCTION(cuEventCreate), FUNCTION(cuEventRecord),
    FUNCTION(cuStreamWaitEvent), FUNCTION(cuMemGetInfo), FUNCTION(cuMemAlloc), FUNCTION(cuMemFree),
    FUNCTION(cuMemAllocHost), FUNCTION(cuMemFreeHost), FUNCTION(cuMemcpyHtoDAsync), FUNCTION(cuMemcpyDtoHAsync),
    FUNCTION(cuStreamBeginCapture), FUNCTION(cuStreamEndCapture), FUNCTION(cuStreamGetCaptureInfo),
    FUNCTION(cuGraphInstantiateWithParams), FUNCTION(cuGraphLaunch), FUNCTION(cuGetErrorString),
};

Result cuGetProcAddress_v2(const char *name, Handle *function, int version, uint64_t flags, int *status) {
  *function = (Handle)anything;
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
    if (!strcmp(functions[i].name, name)) *function = functions[i].function;
  if (status) *status = 0;
  return SUCCESS;
}
Result cuGetProcAddress(const char *name, Handle *function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, 0);
}
