/* Included before the C that Cython writes. Its tracebacks, under the limited API, put a name into a dictionary without a
   look at whether there was memory for one (Cython 3.2 and 3.3), and ask sys for a function in a way that makes Python
   3.13 print what it ignores where there is none. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* sys is kept: each allocation less is one more traceback that is made where memory runs out */
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
