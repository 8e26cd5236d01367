/* Included before the C code that Cython writes, to repair its tracebacks under the limited API (Cython 3.2 and 3.3).
   They put a name into a dictionary without checking that it got memory. And they ask sys for a function in a way that
   makes Python 3.13 print an ignored exception if the function is missing. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Keep sys: each allocation less saves a traceback when memory runs out. */
static PyObject *fl_sys_object(const char *name) {
    static PyObject *sys = NULL;
    PyObject *key, *found = NULL;
    if (!sys) {
        sys = PyImport_AddModule("sys");
        Py_XINCREF(sys);
    }
    key = sys ? PyUnicode_FromString(name) : NULL;
    if (key) {
        found = PyDict_GetItemWithError(PyModule_GetDict(sys), key);
        Py_DECREF(key);
    }
    return found;
}

#define PyDict_SetItemString(dict, key, item) ((dict) ? (PyDict_SetItemString)(dict, key, item) : -1)
#define PySys_GetObject(name) fl_sys_object(name)
