"""Class ids as labels: ignored ids, class weights, and how much an example counts."""

from libc.math cimport INFINITY, NAN

from fastloss._plan cimport SECOND, plan_t


cdef class ClassKernel(Kernel):
    """A kernel over classes with class ids as labels: ids may be ignored, classes may have weights."""
    cdef bint has_ids           # the second input holds class ids
    cdef bint has_ignored
    cdef double ignored         # the id of examples that cost nothing
    cdef bytes weights          # owns the memory of the next
    cdef const double* class_weight     # NULL: 1 for all
    cdef bint weighs_rows       # an example's loss is multiplied by the weight of its class

    cdef int set_classes(self, bint has_ids, ignored, bytes weights) except -1:
        """Sets the ignored id, or None, and the classes' weights as the bytes of doubles."""
        self.has_ids = self.weighs_rows = has_ids
        self.has_ignored = ignored is not None
        self.ignored = ignored if ignored is not None else 0
        self.weights = weights
        if weights is not None:
            self.class_weight = <const double*><const char*>weights
        if has_ids and (ignored is not None or weights is not None):
            self.table.counts = count_by_label
        return 0


cdef inline bint is_ignored(ClassKernel kernel, double id) noexcept nogil:
    return kernel.has_ignored and id == kernel.ignored


cdef void count_by_label(void* parameters, const plan_t* p, Py_ssize_t start, Py_ssize_t n,
                         double* counts) noexcept nogil:
    """Counts an example as the weight of its class; as 0 if its id is ignored or no class."""
    count_classes(<ClassKernel>parameters, p, start, n, counts)


cdef inline void count_classes(ClassKernel kernel, const plan_t* p, Py_ssize_t start, Py_ssize_t n,
                               double* counts) noexcept nogil:
    cdef Py_ssize_t i
    gather(&p.inputs[SECOND], start, n, counts)
    for i in range(n):
        if is_ignored(kernel, counts[i]) or not (0 <= counts[i] < p.row_length):
            counts[i] = 0
        else:
            counts[i] = kernel.class_weight[<Py_ssize_t>counts[i]] if kernel.class_weight != NULL else 1


cdef inline double weighted_loss(double weight, double loss) noexcept nogil:
    """weight times loss; 0 for a weight of 0, even if the class has the probability 0."""
    return <double>0 if weight == 0 and loss == <double>INFINITY else weight * loss


cdef inline bint find_class(ClassKernel kernel, double id, Py_ssize_t classes, Py_ssize_t* y, double* weight,
                            double* loss) noexcept nogil:
    """Finds the class of a row and its weight; False if *loss is set already.

    Labels were checked before. One that changed since must not become an address: its loss is NaN.
    """
    weight[0] = 1
    if is_ignored(kernel, id) or not 0 <= id < classes:
        loss[0] = 0 if is_ignored(kernel, id) else NAN
        return False
    y[0] = <Py_ssize_t>id
    if kernel.class_weight != NULL and kernel.weighs_rows:
        weight[0] = kernel.class_weight[y[0]]
    loss[0] = 0
    return weight[0] != 0


cdef void find_classes(ClassKernel kernel, Py_ssize_t n, Py_ssize_t classes, double* id, real_t* y,
                       double* weight) noexcept nogil:
    """Finds the classes y of n rows, and their weights.

    A row without a class gets the class -1, and its loss in place of the id, as in find_class().
    """
    cdef Py_ssize_t i
    cdef double ignored = kernel.ignored if kernel.has_ignored else <double>NAN
    cdef bint known
    for i in range(n):
        known = (id[i] >= 0) & (id[i] < classes) & (id[i] != ignored)
        y[i] = <real_t>(id[i] if known else <double>-1)
        id[i] = <double>0 if id[i] == ignored else <double>NAN
        weight[i] = 1
    if kernel.class_weight == NULL or not kernel.weighs_rows:
        return
    for i in range(n):
        if y[i] >= 0:
            weight[i] = kernel.class_weight[<Py_ssize_t>y[i]]
            if weight[i] == 0:
                y[i], id[i] = -1, 0
