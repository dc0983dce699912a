#include "area.h"

#define ROUND (3.0 * side * side)
#define SQUARE (side * side)

double area(double side)
{
    return AREA;
}
