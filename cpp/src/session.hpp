/// One ONNX graph, opened with ONNX Runtime on exactly the requested device.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include <caan/caan.hpp>

#include "machine.hpp"

namespace caan::detail {

/// What runs a graph.
struct Device {
    std::string name;      // "cpu" or "cuda"
    bool tensorrt = false; // ONNX Runtime's TensorRT provider, for the nodes it supports
};

/// A prebuilt engine's graph: one EPContext node that names its plan.
struct EngineGraph {
    std::string path;
    std::string provider; // name of its ONNX Runtime provider
    std::string where;    // "the engine NAME of BUNDLE", for messages
    std::string rebuild;  // the command that rebuilds it
};

/// An input or output of a graph.
struct Tensor {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape; // -1: dynamic
};

/// At most three sizes, stored inline: a tile allocates nothing.
class Shape {
public:
    Shape(std::initializer_list<std::int64_t> sizes);
    const std::int64_t* sizes() const noexcept { return sizes_.data(); }
    std::size_t axes() const noexcept { return axes_; }
    std::size_t elements() const noexcept;

private:
    std::array<std::int64_t, 3> sizes_{};
    std::size_t axes_;
};

/// A graph's input or output array, in the caller's memory.
struct Array {
    const char* name;
    void* data;
    ONNXTensorElementDataType type;
    Shape shape;
};

/// Whether a graph runs so often that further optimisation, and keeping the memory of its largest call, pays off.
enum class Calls { few, many };

/// Destroys a session, except in a process forked since.
struct DestroySession {
    long process = this_process();
    void operator()(Ort::Session* session) const;
};

/// May be used from several threads, but not in a process forked since, which lacks its threads.
class Session {
public:
    /// Open a graph in memory; `path` is for messages. Throws MissingError if the device is not usable, BundleError if
    /// the graph can't be loaded.
    Session(const std::string& content, const std::string& path, const Device& device, int threads, Calls calls);
    /// Open a prebuilt engine. Throws MissingError if its provider is not usable, BundleError if it does not load.
    Session(const EngineGraph& graph, int threads);

    /// Run the graph with its inputs, at most four, into `output`, which must have the result's shape. Allocates
    /// nothing itself; ONNX Runtime may. Throws Error.
    void run(std::initializer_list<Array> inputs, const Array& output) const;

    const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
    const std::vector<Tensor>& outputs() const noexcept { return outputs_; }

private:
    void describe();

    std::unique_ptr<Ort::Session, DestroySession> session_;
    std::vector<Tensor> inputs_, outputs_;
};

/// The error for an engine's unusable provider.
MissingError missing_provider(const EngineGraph& graph, const std::string& why);

/// Whether this ONNX Runtime was built with a provider.
bool has_provider(const std::string& name);

/// The device for "cpu", "cuda" or "auto": the GPU if ONNX Runtime has a provider for it and NVIDIA's driver is
/// installed.
std::string choose_device(const std::string& named);

} // namespace caan::detail
