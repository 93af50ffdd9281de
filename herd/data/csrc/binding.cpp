// The thin layer between Python and the reading of pages: a page in, its text out, the GIL released in between.
#include <nanobind/nanobind.h>

#include "page.h"

namespace nb = nanobind;

namespace {

std::string_view utf8(nb::str text) {  // lies in the string itself, which the caller holds
  Py_ssize_t size = 0;
  const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
  if (!data) throw nb::python_error();
  return {data, size_t(size)};
}

}  // namespace

NB_MODULE(_page, m) {
  m.def("main_text", [](nb::str markup) {
    std::string_view view = utf8(markup);
    std::string out;
    {
      nb::gil_scoped_release release;
      out = herd::page::main_text(view);
    }
    return nb::steal(PyUnicode_DecodeUTF8(out.data(), Py_ssize_t(out.size()), "replace"));
  });
  m.def("deep", [](nb::bytes markup, int depth, int64_t tags) {
    std::string_view view{markup.c_str(), markup.size()};
    nb::gil_scoped_release release;
    return herd::page::deep(view, depth, tags);
  });
}
