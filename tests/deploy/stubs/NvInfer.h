// A stand-in for TensorRT's header (10 and newer), with the signatures that deploy/cpp uses. Its one engine takes image
// float [batch, 2, 2], words int64 [batch, 3] and present bool [batch, 2], and answers the sum of each that is present.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace nvinfer1 {
using AsciiChar = char;

class Dims {
public:
    static constexpr int32_t MAX_DIMS = 8;
    int32_t nbDims;
    int64_t d[MAX_DIMS];
};
class Dims2 : public Dims {
public:
    Dims2(int64_t d0, int64_t d1) : Dims{2, {d0, d1}} {}
};
enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kINT64 = 8 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const* name, Dims const& dims) noexcept {
        shapes_[name] = dims;
        return dims.d[0] == 1;
    }
    Dims getTensorShape(char const* name) const noexcept {
        return std::string(name) == "sums" ? Dims{2, {shapes_.at("present").d[0], 2}} : shapes_.at(name);
    }
    bool setTensorAddress(char const* name, void* data) noexcept {
        addresses_[name] = data;
        return true;
    }
    bool enqueueV3(cudaStream_t) noexcept {
        auto* image = static_cast<float*>(addresses_.at("image"));
        auto* words = static_cast<int64_t*>(addresses_.at("words"));
        auto* present = static_cast<bool*>(addresses_.at("present"));
        auto* sums = static_cast<float*>(addresses_.at("sums"));
        sums[0] = sums[1] = 0;
        for (int i = 0; i < 4; ++i) sums[0] += present[0] ? image[i] : 0;
        for (int i = 0; i < 3; ++i) sums[1] += present[1] ? static_cast<float>(words[i]) : 0;
        return true;
    }

private:
    std::map<std::string, Dims> shapes_;
    std::map<std::string, void*> addresses_;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    int32_t getNbIOTensors() const noexcept { return 4; }
    char const* getIOTensorName(int32_t index) const noexcept {
        static char const* const names[] = {"image", "words", "present", "sums"};
        return names[index];
    }
    TensorIOMode getTensorIOMode(char const* name) const noexcept {
        return std::string(name) == "sums" ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
    }
    DataType getTensorDataType(char const* name) const noexcept {
        const std::string tensor = name;
        return tensor == "words" ? DataType::kINT64 : tensor == "present" ? DataType::kBOOL : DataType::kFLOAT;
    }
    Dims getTensorShape(char const* name) const noexcept {
        const std::string tensor = name;
        return tensor == "image" ? Dims{3, {-1, 2, 2}} : tensor == "words" ? Dims{2, {-1, 3}} : Dims{2, {-1, 2}};
    }
    IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext; }
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
        return size == 4 && std::memcmp(blob, "plan", 4) == 0 ? new ICudaEngine : nullptr;
    }
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }
}  // namespace nvinfer1
