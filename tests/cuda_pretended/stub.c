/* A driver of pretended devices, preloaded in libcuda.so.1's place: PyTorch finds as many devices
 * as pretend_devices() says, with no context on any of them; every other call of the driver fails.
 */
#define FAILS(name) int name(void) { return 100; /* CUDA_ERROR_NO_DEVICE */ }
#define WORKS(name) int name(void) { return 0; }

static int devices = 0;

void pretend_devices(int count) { devices = count; }

/* c10::cuda::device_count(), which PyTorch's guards and its autograd threads ask */
signed char _ZN3c104cuda12device_countEv(void) { return (signed char)devices; }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    (void)device;
    *flags = 0;
    *active = 0;
    return 0;
}

WORKS(cuCtxGetDevice)
WORKS(cuCtxGetLimit)
WORKS(cuCtxSetLimit)
WORKS(cuDriverGetVersion)
WORKS(cuStreamIsCapturing)

FAILS(cuCtxGetCurrent)
FAILS(cuCtxSetCurrent)
FAILS(cuDeviceGet)
FAILS(cuDeviceGetAttribute)
FAILS(cuDevicePrimaryCtxRetain)
FAILS(cuFuncGetAttribute)
FAILS(cuFuncSetAttribute)
FAILS(cuFuncSetCacheConfig)
FAILS(cuGetErrorString)
FAILS(cuLaunchCooperativeKernel)
FAILS(cuLaunchKernel)
FAILS(cuLinkAddData_v2)
FAILS(cuLinkComplete)
FAILS(cuLinkCreate_v2)
FAILS(cuModuleGetFunction)
FAILS(cuModuleLoad)
FAILS(cuModuleLoadData)
FAILS(cuModuleLoadDataEx)
FAILS(cuModuleUnload)
FAILS(cuOccupancyMaxActiveBlocksPerMultiprocessor)
FAILS(cuPointerGetAttribute)
FAILS(cuTensorMapEncodeTiled)
