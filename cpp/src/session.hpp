/// One ONNX graph, opened with ONNX Runtime on exactly the device that was asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include <caan/caan.hpp>

namespace caan::detail {

/// What runs a graph.
struct Device {
    std::string name;      // "cpu" or "cuda"
    bool tensorrt = false; // ONNX Runtime's TensorRT provider, for what it can take
};

/// An input or output of a graph.
struct Tensor {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape; // -1: dynamic
};

/// An array that a graph reads or fills, in the caller's memory.
struct Array {
    const char* name;
    void* data;
    ONNXTensorElementDataType type;
    std::vector<std::int64_t> shape;
};

/// May be used from several threads.
class Session {
public:
    /// Throws MissingError if the device is not usable, BundleError if the graph can't be loaded.
    Session(const std::string& path, const Device& device, int threads);
    /// Of a graph in memory, on the CPU; `path` is for messages.
    Session(const std::string& content, const std::string& path, int threads);

    /// Run the graph; its result goes to `output`, whose shape must be the one that it has. Throws Error.
    void run(const std::vector<Array>& inputs, const Array& output) const;

    const std::vector<Tensor>& inputs() const noexcept { return inputs_; }
    const std::vector<Tensor>& outputs() const noexcept { return outputs_; }

private:
    void describe();

    std::unique_ptr<Ort::Session> session_;
    std::vector<Tensor> inputs_, outputs_;
};

/// The device that is meant by "cpu", "cuda" or "auto": the GPU if ONNX Runtime has a provider for it and NVIDIA's
/// driver is there.
std::string choose_device(const std::string& named);

} // namespace caan::detail
