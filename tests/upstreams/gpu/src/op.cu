#include <cuda_runtime.h>

__global__ void op(double *values)
{
    values[0] *= 2;
}
