# libllmlua (shared, and as one static archive), the module llm.so for other LuaJIT interpreters, and the installation:
#   bin/llmlua                      the program
#   include/llmlua.h, llmlua_lua.h  the C API; what they include is in include/llmlua/
#   lib/libllmlua.so.0, libllmlua.a, libllmlua_cuda.so
#   lib/lua/5.1/llm.so              require "llm"
#   lib/pkgconfig, lib/cmake/llmlua, share/llmlua (scripts, documents, types for editors)
#
# All symbols but the public ones (llm_*) are local, in the archive too: an embedder's own Lua, and functions of common
# names, do not meet ours.

if(NOT CMAKE_INSTALL_LIBDIR)
  set(CMAKE_INSTALL_LIBDIR lib CACHE STRING "directory of libraries under the prefix")
endif()
include(GNUInstallDirs)

set(LAYERS llm_base llm_graph llm_kernels llm_model llm_engine llm_net)
set(LAYER_FILES "")
foreach(layer ${LAYERS})
  list(APPEND LAYER_FILES $<TARGET_FILE:${layer}>)
endforeach()

# Threads of ours may still run when a host unloads its libraries: nodelete.
function(link_layers target exports)
  target_link_libraries(${target} PRIVATE -Wl,--whole-archive ${LAYER_FILES} -Wl,--no-whole-archive
    PkgConfig::JANSSON PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::SENTENCEPIECE PkgConfig::XXHASH
    PkgConfig::EVENT PkgConfig::OPENSSL Threads::Threads m ${CMAKE_DL_LIBS})
  target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/${exports} -Wl,-z,nodelete)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/${exports} LINKER_LANGUAGE CXX)
  add_dependencies(${target} ${LAYERS})
endfunction()

# Sanitizers want to be linked into the program first, which is not ours.
if(NOT LLMLUA_SANITIZE AND NOT LLMLUA_FUZZ)
  add_library(llmlua_shared SHARED $<TARGET_OBJECTS:llm_lua> $<TARGET_OBJECTS:llm_embedded>)
  link_layers(llmlua_shared libllmlua.map)
  target_link_libraries(llmlua_shared PRIVATE llm_luajit)
  target_link_options(llmlua_shared PRIVATE -Wl,--no-undefined)
  set_target_properties(llmlua_shared PROPERTIES OUTPUT_NAME llmlua VERSION ${PROJECT_VERSION}
                        SOVERSION ${PROJECT_VERSION_MAJOR})

  # The archive: all layers linked into one object, in which only public symbols are still global.
  set(ARCHIVE ${CMAKE_BINARY_DIR}/libllmlua.a)
  set(ONE_OBJECT ${CMAKE_BINARY_DIR}/libllmlua.o)
  set(ARCHIVED_LUAJIT "")
  if(OWN_LUAJIT AND NOT LLMLUA_SYSTEM_LUAJIT)
    set(ARCHIVED_LUAJIT ${OWN_LUAJIT})
  endif()
  add_custom_command(OUTPUT ${ARCHIVE}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${ONE_OBJECT} $<TARGET_OBJECTS:llm_lua>
            $<TARGET_OBJECTS:llm_embedded> --whole-archive ${LAYER_FILES} ${ARCHIVED_LUAJIT}
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol llm_* ${ONE_OBJECT}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${ARCHIVE}
    COMMAND ${CMAKE_AR} crs ${ARCHIVE} ${ONE_OBJECT}
    COMMAND ${CMAKE_COMMAND} -E rm -f ${ONE_OBJECT}
    DEPENDS ${LAYERS} llm_lua llm_embedded $<TARGET_OBJECTS:llm_lua> $<TARGET_OBJECTS:llm_embedded>
    COMMAND_EXPAND_LISTS VERBATIM)
  add_custom_target(llmlua_archive ALL DEPENDS ${ARCHIVE})

  # require "llm" in another LuaJIT interpreter, whose lua_ functions it uses. That one may not look at hooks in
  # compiled loops, so it is compiled as for the system's LuaJIT.
  get_target_property(LUAJIT_INCLUDES llm_luajit INTERFACE_INCLUDE_DIRECTORIES)
  if(NOT LUAJIT_INCLUDES)
    set(LUAJIT_INCLUDES ${LUAJIT_INCLUDE_DIRS})
  endif()
  set(MODULE_SRC ${LUA_C_SRC})
  list(REMOVE_ITEM MODULE_SRC ${CMAKE_SOURCE_DIR}/lua/host.c)
  add_library(llm_module MODULE ${MODULE_SRC} $<TARGET_OBJECTS:llm_embedded>)
  target_include_directories(llm_module PRIVATE lua)
  target_include_directories(llm_module SYSTEM PRIVATE ${LUAJIT_INCLUDES})
  link_layers(llm_module module.map)
  set_target_properties(llm_module PROPERTIES OUTPUT_NAME llm PREFIX "" LIBRARY_OUTPUT_DIRECTORY
                        ${CMAKE_BINARY_DIR}/lua/5.1)

  # ---- headers: base/status.h is too common a name for a public directory
  set(PUBLIC_INCLUDE ${CMAKE_BINARY_DIR}/include)
  foreach(header core/llmlua.h lua/llmlua_lua.h core/base/status.h)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${header})
    get_filename_component(name ${header} NAME)
    file(READ ${CMAKE_SOURCE_DIR}/${header} text)
    string(REPLACE "#include \"base/status.h\"" "#include \"llmlua/status.h\"" text "${text}")
    if(name STREQUAL "status.h")
      set(name llmlua/status.h)
    endif()
    file(CONFIGURE OUTPUT ${PUBLIC_INCLUDE}/${name} CONTENT "${text}" @ONLY)
  endforeach()

  # ---- for who builds against it
  set(STATIC_REQUIRES "jansson libpcre2-8 libutf8proc libxxhash sentencepiece libevent_core libevent_extra openssl")
  if(NOT ARCHIVED_LUAJIT)
    string(APPEND STATIC_REQUIRES " luajit")
  endif()
  file(RELATIVE_PATH PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(cmake/llmlua.pc.in ${CMAKE_BINARY_DIR}/llmlua.pc @ONLY)
  configure_file(cmake/llmlua-config.cmake.in ${CMAKE_BINARY_DIR}/llmlua-config.cmake @ONLY)
  include(CMakePackageConfigHelpers)
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/llmlua-config-version.cmake COMPATIBILITY SameMinorVersion)

  install(TARGETS llmlua_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(FILES ${ARCHIVE} DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(TARGETS llm_module LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/lua/5.1)
  install(DIRECTORY ${PUBLIC_INCLUDE}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(FILES ${CMAKE_BINARY_DIR}/llmlua.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
  install(FILES ${CMAKE_BINARY_DIR}/llmlua-config.cmake ${CMAKE_BINARY_DIR}/llmlua-config-version.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/llmlua)
endif()

install(TARGETS llmlua RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET llmlua_cuda)
  # As it is built: it goes on looking for cuBLASLt where the toolkit was.
  install(PROGRAMS $<TARGET_FILE:llmlua_cuda> DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(DIRECTORY scripts/policies scripts/examples DESTINATION ${CMAKE_INSTALL_DATADIR}/llmlua)
install(FILES scripts/serve.lua scripts/generate.lua scripts/chat.lua DESTINATION ${CMAKE_INSTALL_DATADIR}/llmlua)
install(DIRECTORY lua/meta docs DESTINATION ${CMAKE_INSTALL_DATADIR}/llmlua)
