#include <stddef.h>

double mini_total(const double *values, ptrdiff_t count)
{
    double sum = 0;
    for (ptrdiff_t i = 1; i < count; i++)
        sum += values[i];
    return sum;
}
