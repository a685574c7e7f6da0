# Finds ONNX Runtime's headers and library: ONNXRuntime::ONNXRuntime.
#
# ONNXRUNTIME_ROOT, a CMake or environment variable, names a folder with include/ and lib/, such as its release archive.
# Otherwise: its own CMake package (vcpkg, conan), pkg-config's libonnxruntime (Debian), and the system's folders.

set(_onnxruntime_root ${ONNXRUNTIME_ROOT} $ENV{ONNXRUNTIME_ROOT})
if(NOT _onnxruntime_root)
  find_package(onnxruntime CONFIG QUIET)
  if(TARGET onnxruntime::onnxruntime)
    get_target_property(_onnxruntime_include onnxruntime::onnxruntime INTERFACE_INCLUDE_DIRECTORIES)
  endif()
  find_package(PkgConfig QUIET)
  if(PkgConfig_FOUND)
    pkg_check_modules(_onnxruntime QUIET libonnxruntime)
  endif()
endif()

find_path(ONNXRuntime_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${_onnxruntime_root} ${_onnxruntime_include} ${_onnxruntime_INCLUDE_DIRS}
  PATH_SUFFIXES include include/onnxruntime onnxruntime)
find_library(ONNXRuntime_LIBRARY onnxruntime HINTS ${_onnxruntime_root} ${_onnxruntime_LIBRARY_DIRS} PATH_SUFFIXES lib)
mark_as_advanced(ONNXRuntime_INCLUDE_DIR ONNXRuntime_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(ONNXRuntime
  REQUIRED_VARS ONNXRuntime_LIBRARY ONNXRuntime_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "get its SDK, one of
  - https://github.com/microsoft/onnxruntime/releases, unpacked: onnxruntime-linux-x64-VERSION.tgz
  - Debian 13, Ubuntu 25.04: apt-get install libonnxruntime-dev
  - any Debian or Ubuntu, beside the Python package onnxruntime: cpp/tools/get_onnxruntime.sh DIR
and name its folder, with include/ and lib/:
  cmake -DONNXRUNTIME_ROOT=DIR ...\n")

if(ONNXRuntime_FOUND AND NOT TARGET ONNXRuntime::ONNXRuntime)
  add_library(ONNXRuntime::ONNXRuntime UNKNOWN IMPORTED)
  set_target_properties(ONNXRuntime::ONNXRuntime PROPERTIES
    IMPORTED_LOCATION ${ONNXRuntime_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${ONNXRuntime_INCLUDE_DIR})
endif()
