#include <mini.h>

int mini_is_fast(void)
{
    return mini();
}
