cdef int threads() except -1
