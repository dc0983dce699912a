extern "C" double mini_scale(double value)
{
    return value * UNIT;
}
