#define PY_SSIZE_T_CLEAN
#include <Python.h>

double mini_total(const double *values, Py_ssize_t count);
double mini_scale(double value);

static PyObject *total(PyObject *self, PyObject *argument)
{
    PyObject *items = PySequence_Fast(argument, "a sequence of numbers is wanted");
    if (items == NULL)
        return NULL;
    Py_ssize_t count = PySequence_Fast_GET_SIZE(items);
    double *values = PyMem_Calloc(count ? count : 1, sizeof(double));
    for (Py_ssize_t i = 0; values != NULL && i < count; i++)
        values[i] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(items, i));
    Py_DECREF(items);
    if (values == NULL)
        return PyErr_NoMemory();
    double sum = mini_total(values, count);
    PyMem_Free(values);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(sum);
}

static PyObject *scale(PyObject *self, PyObject *argument)
{
    double value = PyFloat_AsDouble(argument);
    return PyErr_Occurred() ? NULL : PyFloat_FromDouble(mini_scale(value));
}

static PyMethodDef methods[] = {
    {"total", total, METH_O, "Return the sum of numbers."},
    {"scale", scale, METH_O, "Return a number in units."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_ext", NULL, -1, methods};

PyMODINIT_FUNC PyInit__ext(void)
{
    return PyModule_Create(&module);
}
