/* Included before the C that Cython writes. Its tracebacks, under the limited API, put a name into a dictionary without a
   look at whether there was memory for one (Cython 3.2 and 3.3). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PyDict_SetItemString(dict, key, item) ((dict) ? (PyDict_SetItemString)(dict, key, item) : -1)
