// The thin layer between Python and the decoder: rows in by the names of their fields, results out, the GIL released while
// it computes.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include "decoder.h"
#include "probe.h"

namespace nb = nanobind;
using namespace herd;
using namespace nb::literals;

template <class T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

// Field `name` of a Python object. Rows are read by the names of their fields, so that nothing is matched by its place.
template <class T>
T field(nb::handle owner, const char* name) {
  nb::object value = owner.attr(name);
  T out;
  if (!nb::try_cast<T>(value, out)) throw nb::type_error((std::string(name) + " has a wrong type or a number out of range").c_str());
  return out;
}

// None is `otherwise`.
template <class T>
T field_or(nb::handle owner, const char* name, T otherwise) {
  return owner.attr(name).is_none() ? otherwise : field<T>(owner, name);
}

SamplingParams read_params(nb::handle params) {
  SamplingParams out;
  out.temperature = field<float>(params, "temperature");
  out.top_p = field<float>(params, "top_p");
  out.min_p = field<float>(params, "min_p");
  out.top_k = field<int>(params, "top_k");
  out.repetition_penalty = field<float>(params, "repetition_penalty");
  out.presence_penalty = field<float>(params, "presence_penalty");
  out.frequency_penalty = field<float>(params, "frequency_penalty");
  for (auto [token, bias] : field<nb::dict>(params, "logit_bias")) out.logit_bias.emplace_back(nb::cast<int32_t>(token), nb::cast<float>(bias));
  return out;
}

Sampling read_sampling(nb::handle sampling, const nb::object& params) {
  Sampling out;
  out.params = read_params(params);
  out.seed = PyLong_AsUnsignedLongLongMask(field<nb::int_>(sampling, "seed").ptr());  // any 64 bits
  out.position = field<int64_t>(sampling, "position");
  out.history = field<std::vector<int32_t>>(sampling, "history");
  out.prompt_length = field<size_t>(sampling, "prompt_length");
  return out;
}

// herd.engine.backend.Row as the decoder has it; masks come later.
StepRow read_row(nb::handle row) {
  StepRow out;
  out.tokens = field<std::vector<int32_t>>(row, "tokens");
  out.start = field<int>(row, "start");
  out.blocks = field<std::vector<int32_t>>(row, "blocks");
  out.targets = field_or<std::vector<int32_t>>(row, "targets", {});
  out.first_target = field<int>(row, "first_target");
  out.target_top = field<int>(row, "target_top");
  out.score_tokens = field<std::vector<int32_t>>(row, "score_tokens");
  out.state_from = field_or(row, "state_from", -1);
  out.draft = field<int>(row, "draft");
  if (nb::object sampling = row.attr("sampling"); !sampling.is_none()) {
    nb::object params = sampling.attr("params");
    out.sampling = read_sampling(sampling, params);
    out.top = field_or(params, "logprobs", -1);
  }
  return out;
}

std::vector<StepResult> step(Decoder& decoder, nb::list rows) {
  std::vector<StepRow> plan;
  std::vector<std::pair<size_t, nb::object>> masks;  // rows with a function that gives their mask, perhaps after a wait
  for (nb::handle row : rows) {
    plan.push_back(read_row(row));
    if (!plan.back().sampling) continue;
    if (nb::object mask = row.attr("sampling").attr("mask"); !mask.is_none()) masks.emplace_back(plan.size() - 1, mask);
  }
  std::exception_ptr failed;
  std::function<void()> fetch_masks = [&] {
    nb::gil_scoped_acquire acquire;
    try {
      for (auto& [row, mask] : masks) {
        auto words = nb::cast<nb::ndarray<const uint32_t, nb::c_contig, nb::device::cpu>>(mask());  // [words] or [masks, words]
        Sampling& sampling = *plan[row].sampling;
        sampling.masks.assign(words.data(), words.data() + words.size());
        sampling.mask_words = words.ndim() ? size_t(words.shape(words.ndim() - 1)) : 0;
      }
    } catch (...) {
      failed = std::current_exception();  // the other threads wait at a barrier: tell the caller afterwards
    }
  };
  std::vector<StepResult> results;
  {
    nb::gil_scoped_release release;
    results = decoder.step(plan, masks.empty() ? std::function<void()>() : fetch_masks);
  }
  if (failed) std::rethrow_exception(failed);
  return results;
}

CacheKind cache_kind(const std::string& name) {
  const char* names[] = {"f32", "f16", "int8", "int4"};
  for (int i = 0; i < 4; i++)
    if (name == names[i]) return CacheKind(i);
  throw nb::value_error("a cache of this kind does not exist");
}

nb::tuple top_of(const Score& score) {
  nb::list top;
  for (size_t i = 0; i < score.tokens.size(); i++) top.append(nb::make_tuple(score.tokens[i], score.logprobs[i]));
  return nb::tuple(top);
}

}  // namespace

NB_MODULE(_native, m) {
  m.attr("BLOCK") = BLOCK;
  m.def("probe_bandwidth", [](int threads) { return probe_bandwidth(threads, size_t(512) << 20, 5); },
        nb::call_guard<nb::gil_scoped_release>());
  m.def("probe_flops", [](int threads, const std::string& isa) { return probe_flops(threads, isa.c_str(), 3000000); },
        "threads"_a, "isa"_a = "", nb::call_guard<nb::gil_scoped_release>());
  m.def("probe_integer_ops", [](int threads, const std::string& isa) { return probe_integer_ops(threads, isa.c_str(), 3000000); },
        "threads"_a, "isa"_a = "", nb::call_guard<nb::gil_scoped_release>());
  m.def("instruction_sets", [] {
    nb::list names;
    for (const char* name : {"avx512bf16", "avx512", "avxvnni", "avx2", "neon", "portable"})
      if (choose_kernels(name)) names.append(name);
    return names;
  });
  nb::class_<Score>(m, "Score").def_ro("logprob", &Score::logprob).def_prop_ro("top", &top_of);
  nb::class_<Choice>(m, "Choice").def_ro("token", &Choice::token).def_ro("score", &Choice::score);
  nb::class_<StepResult>(m, "StepResult")
      .def_ro("choices", &StepResult::choices)
      .def_ro("scores", &StepResult::scores)
      .def_ro("token_logprobs", &StepResult::token_logprobs)
      .def_ro("state", &StepResult::state)
      .def_prop_ro("finite", &StepResult::finite);
  nb::class_<Decoder>(m, "Decoder", nb::dynamic_attr())
      .def("__init__",
           [](Decoder* self, int layers, int dim, int ffn_dim, int heads, int kv_heads, int head_dim, int vocab, float norm_eps,
              std::vector<float> frequencies, float rope_gain, int threads, int blocks, const std::string& isa, const std::string& kv_cache) {
             Shape shape{layers, dim, ffn_dim, heads, kv_heads, head_dim, vocab, norm_eps, std::move(frequencies), rope_gain};
             new (self) Decoder(std::move(shape), threads, blocks, isa.c_str(), cache_kind(kv_cache));
           },
           nb::kw_only(), "layers"_a, "dim"_a, "ffn_dim"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "vocab"_a, "norm_eps"_a,
           "frequencies"_a, "rope_gain"_a, "threads"_a, "blocks"_a, "isa"_a, "kv_cache"_a)
      .def("add",
           [](Decoder& self, const std::string& name, int format, int rows, int columns, Array<uint8_t> raw,
              nb::object scale, bool mapped) {
             std::vector<float> scales;
             if (!scale.is_none()) {
               auto values = nb::cast<Array<float>>(scale);
               scales.assign(values.data(), values.data() + values.size());
               if (int(scales.size()) != rows) throw nb::value_error("a scale is needed for each row");
             }
             nb::gil_scoped_release release;
             self.add(name, format, rows, columns, raw.data(), raw.size(), scales.empty() ? nullptr : scales.data(), mapped);
           },
           "name"_a, "format"_a, "rows"_a, "columns"_a, "raw"_a, "scale"_a.none(), "mapped"_a)
      .def("finish", &Decoder::finish)
      .def_rw("packed_a_step", &Decoder::packed_a_step)
      .def("pack", &Decoder::pack, nb::call_guard<nb::gil_scoped_release>())
      .def("step", &step, "rows"_a)
      .def_prop_ro("block_bytes", &Decoder::block_bytes)
      .def("read_block",
           [](const Decoder& self, int block) {
             nb::object out = nb::steal(PyBytes_FromStringAndSize(nullptr, Py_ssize_t(self.block_bytes())));
             if (!out.is_valid()) nb::raise_python_error();
             self.read_block(block, reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(out.ptr())));
             return nb::borrow<nb::bytes>(out);
           },
           "block"_a)
      .def("write_block",
           [](Decoder& self, int block, Array<uint8_t> contents) {
             if (contents.size() != self.block_bytes()) throw nb::value_error("a block has another size");
             self.write_block(block, contents.data());
           },
           "block"_a, "contents"_a)
      .def_prop_ro("isa", &Decoder::isa);
}
